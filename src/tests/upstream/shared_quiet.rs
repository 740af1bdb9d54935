//! HTTP/2 connections whose server was not heard from for a while.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::yield_now,
    time::{advance, pause, resume},
};
use tower::ServiceExt;

use crate::{Body, Request, tests::support::within, upstream::Upstream};

const SEC: Duration = Duration::from_secs(1);

/// A server that counts its connections.
struct Server {
    address: String,
    accepted: Arc<AtomicUsize>,
    /// Makes the first connection read and write nothing more.
    freeze: Arc<Notify>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("h2://{}", listener.local_addr().unwrap());
        let (accepted, freeze) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
        let (count, frozen) = (accepted.clone(), freeze.clone());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let is_first = count.fetch_add(1, Relaxed) == 0;
                tokio::spawn(answer(socket, is_first.then(|| frozen.clone())));
            }
        });
        Self { address, accepted, freeze }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Relaxed)
    }
}

/// Answers the requests of a connection, until it freezes.
async fn answer(socket: TcpStream, freeze: Option<Arc<Notify>>) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    let requests = async {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_response(http::Response::new(()), true).unwrap();
        }
    };
    let frozen = async {
        match freeze {
            Some(freeze) => freeze.notified().await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = requests => {}
        () = frozen => pending().await,
    }
}

async fn send(upstream: &Upstream, method: &str) {
    let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
    assert_eq!(within(upstream.clone().oneshot(request)).await.unwrap().status(), 200);
}

async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

/// Lets time pass in which the server sends nothing.
async fn pass(time: Duration) {
    settle().await;
    pause();
    advance(time).await;
    resume();
}

#[tokio::test]
async fn shared_connection_that_was_quiet_is_used_if_its_server_answers_a_ping() {
    let server = Server::start().await;
    let upstream = Upstream::builder([&server.address]).attempts(1).build().unwrap();
    for method in ["GET", "POST", "POST"] {
        send(&upstream, method).await;
        pass(6 * SEC).await;
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn shared_connection_without_an_answer_to_a_ping_gets_no_post() {
    let server = Server::start().await;
    let upstream = Upstream::builder([&server.address]).attempts(1).build().unwrap();
    send(&upstream, "GET").await;
    pass(6 * SEC).await;
    server.freeze.notify_one();
    settle().await;
    let post = tokio::spawn({
        let upstream = upstream.clone();
        async move { send(&upstream, "POST").await }
    });
    pass(SEC + Duration::from_millis(1)).await;
    within(post).await.unwrap();
    assert_eq!(server.accepted(), 2);
    send(&upstream, "GET").await;
    assert_eq!(server.accepted(), 2, "the first one gets no further request");
}
