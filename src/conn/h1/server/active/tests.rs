//! Tests of the states of a connection over a driver.

use std::{convert::Infallible, pin::Pin};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::service_fn;

use super::*;
use crate::{
    Response,
    conn::{Config, Transport, h1::server::Connection},
    net::DrainWatch,
    peer::Peer,
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn is_idle<I, S>(connection: &Connection<I, S>) -> bool
where
    I: crate::net::Io,
{
    matches!(connection.0.as_ref().unwrap().phase, Phase::Idle(_))
}

#[tokio::test]
async fn idle_connection_owns_no_exchange_state() {
    let hello =
        service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
    let (mut client, io) = tokio::io::duplex(1 << 10);
    let transport = Transport::new(io, Peer::memory(), DrainWatch::never());
    let mut connection = Connection::new(transport, hello, Arc::default());
    for _ in 0..2 {
        assert!(is_idle(&connection));
        client.write_all(&REQUEST[..9]).await.unwrap();
        assert!(is_pending(&mut connection));
        assert!(!is_idle(&connection), "half a head is kept");
        client.write_all(&REQUEST[9..]).await.unwrap();
        assert!(is_pending(&mut connection));
        let mut answer = [0; 1 << 10];
        assert!(client.read(&mut answer).await.unwrap() > 0);
    }
}

/// Polls once. Returns whether the future is pending.
fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    Pin::new(future).poll(&mut cx).is_pending()
}

#[tokio::test]
async fn large_head_counts_in_the_budget_while_its_response_waits() {
    for logs in [false, true] {
        let never =
            service_fn(|_: Request<Body>| std::future::pending::<Result<Response, Infallible>>());
        let (mut client, io) = tokio::io::duplex(64 << 10);
        let budget = Budget::default();
        let config = Config::new().budget(budget.clone());
        let config = if logs { config.access_log(|_| ()) } else { config };
        let transport = Transport::new(io, Peer::memory(), DrainWatch::never());
        let mut connection = Connection::new(transport, never, Arc::new(config));
        let cookie = "x".repeat(20_000);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        assert!(is_pending(&mut connection));
        let used = budget.usage().memory;
        assert!((20_000..25_000).contains(&used), "{used}");
        let Phase::Active(active) = &connection.0.as_ref().unwrap().phase else { panic!() };
        assert_eq!(active.transfers.is_empty(), !logs, "no subscriber asks for an entry");
    }
}

#[tokio::test(start_paused = true)]
async fn connection_ends_though_a_request_body_is_kept_unread() {
    for drains in [false, true] {
        let kept = Arc::new(std::sync::Mutex::new(None));
        let keep = kept.clone();
        let service = service_fn(move |request: Request<Body>| {
            *keep.lock().unwrap() = Some(request.into_body());
            async { Ok::<_, Infallible>(Response::new(Body::from("early"))) }
        });
        let (mut client, io) = tokio::io::duplex(1 << 20);
        let drain = crate::net::Drain::new();
        let transport = Transport::new(io, Peer::memory(), drain.watch());
        let task = tokio::spawn(Connection::new(transport, service, Arc::default()));
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
        client.write_all(head).await.unwrap();
        client.write_all(&[b'x'; 300_000]).await.unwrap();
        let mut answer = [0; 1 << 10];
        assert!(client.read(&mut answer).await.unwrap() > 0);
        drop(client);
        let began = tokio::time::Instant::now();
        if drains {
            drain.begin();
        }
        let minute = std::time::Duration::from_secs(60);
        tokio::time::timeout(minute, task).await.expect("it does not end").unwrap().unwrap();
        assert_eq!(began.elapsed().as_secs(), if drains { 0 } else { 30 });
        assert!(kept.lock().unwrap().is_some());
    }
}

#[tokio::test]
async fn activated_connection_has_its_own_limits() {
    let now = Instant::now();
    let [short, long] = [1, 100].map(|s| {
        let idle_timeout = std::time::Duration::from_secs(s);
        Arc::new(Limits { idle_timeout, head_timeout: idle_timeout, ..Limits::default() })
    });
    for (limits, seconds) in [(&short, 1), (&long, 100), (&short, 1)] {
        let mut phase = Phase::Idle(Idle::new(IdleState::new(now), FirstRead::default()));
        let deadline = phase.activate(limits).core.deadline().unwrap();
        assert_eq!((deadline - now).as_secs(), seconds);
        phase.try_idle(&Budget::default());
        assert!(matches!(phase, Phase::Idle(_)));
    }
}
