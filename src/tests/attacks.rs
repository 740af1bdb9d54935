//! All known slow or endless clients at the same time, with two workers and the default limits, in virtual time:
//! each ends as expected, and a healthy client is not affected.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tower::{
    ServiceBuilder, limit::GlobalConcurrencyLimitLayer, service_fn, util::BoxCloneService,
};

use super::support::statuses;
use crate::{
    Body, BoxError, Request, Response,
    conn::{Config, Transport, h1::server::Connection},
    layer::{RequestBufferLayer, RescueLayer, ResponseBufferLayer},
    net::DrainWatch,
    peer::Peer,
};

/// The time that the application takes for a request.
const WORK: Duration = Duration::from_millis(5);
/// The number of attackers of each kind.
const EACH: usize = 10;
/// More than the pipe and the connection buffer, and less than the response buffer.
const PAGE: usize = 200_000;

type Front = BoxCloneService<Request, Response, Infallible>;

fn front() -> Front {
    let app = service_fn(|request: Request| async move {
        let len = request.into_body().collect().await?.to_bytes().len();
        sleep(WORK).await;
        let (tx, body) = Body::channel(None);
        tx.send(Bytes::from(vec![b'p'; PAGE])).expect("it is read here");
        tx.finish(None);
        let mut response = Response::new(if len == 0 { body } else { Body::from("thanks") });
        response.headers_mut().insert("x-len", len.into());
        Ok::<_, BoxError>(response)
    });
    BoxCloneService::new(
        ServiceBuilder::new()
            .layer(RescueLayer::new())
            .layer(ResponseBufferLayer::new())
            .layer(RequestBufferLayer::new())
            .layer(GlobalConcurrencyLimitLayer::new(2))
            .service(app),
    )
}

/// Opens a connection over a pipe with a buffer of `pipe` bytes.
fn connect(front: &Front, pipe: usize) -> (DuplexStream, JoinHandle<std::io::Result<()>>) {
    let (client, io) = tokio::io::duplex(pipe);
    let config = Arc::new(Config::default());
    let connection = Connection::new(
        Transport::new(io, Peer::memory(), DrainWatch::never()),
        front.clone(),
        config,
    );
    (client, tokio::spawn(connection))
}

#[derive(Clone, Copy)]
struct Attack {
    name: &'static str,
    first: &'static str,
    /// Sent repeatedly, at this interval.
    then: &'static [u8],
    every: Duration,
    /// The size and interval of reads; `None` if it does not read.
    read: Option<(usize, Duration)>,
    /// The statuses of the responses, if it reads them all, and the maximum number of seconds until its end.
    status: &'static [u16],
    within: u64,
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const NEVER: Duration = secs(1 << 30);
const ALL: Option<(usize, Duration)> = Some((1 << 20, Duration::ZERO));
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

const fn attack(
    name: &'static str,
    first: &'static str,
    status: &'static [u16],
    within: u64,
) -> Attack {
    Attack { name, first, then: b"", every: NEVER, read: ALL, status, within }
}

const ATTACKS: [Attack; 16] = [
    Attack {
        then: b"x",
        every: secs(1),
        ..attack("R1 head, a byte a second", "GET / HTTP/1.1\r\nX:", &[408], 20)
    },
    Attack {
        then: b"x",
        every: secs(59),
        ..attack("R1 head, a byte in 59 s", "GET / HTTP/1.1\r\nX:", &[408], 20)
    },
    Attack { then: b"\r\n", every: secs(1), ..attack("R1 empty lines", "\r\n", &[400], 20) },
    attack("R2 nothing", "", &[], 20),
    attack(
        "R3 a body that stops",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-length: 5\r\n\r\nABC",
        &[408],
        30,
    ),
    Attack { then: b"x", every: secs(29), ..attack("R3 a byte in 29 s", POST, &[408], 60) },
    Attack {
        then: b"1\r\nx\r\n",
        every: secs(29),
        ..attack("R3 a chunk in 29 s", CHUNKED, &[408], 60)
    },
    attack(
        "R3 a body after 100 Continue",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        &[100, 408],
        30,
    ),
    Attack { read: None, ..attack("R4 reads nothing", GET, &[], 60) },
    Attack { read: Some((1, secs(29))), ..attack("R4 reads a byte in 29 s", GET, &[], 122) },
    Attack {
        then: GET.as_bytes(),
        every: Duration::ZERO,
        read: None,
        ..attack("a flood of requests, and reads nothing", GET, &[], 60)
    },
    Attack {
        then: b"x-y: zzzzzzzzzzzzzzzzzzzzzzzzz\r\n",
        every: Duration::ZERO,
        ..attack("R5 fields without end", "GET / HTTP/1.1\r\nHost: a\r\n", &[431], 1)
    },
    Attack {
        then: b"400\r\n",
        every: Duration::ZERO,
        ..attack("broken chunks", CHUNKED, &[400], 1)
    },
    Attack {
        then: b"4\r\nxxxx\r\n",
        every: Duration::ZERO,
        ..attack("R6 a body without end", CHUNKED, &[413], 10)
    },
    Attack {
        then: b";a=b",
        every: Duration::ZERO,
        ..attack(
            "R6 extensions without end",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5",
            &[400],
            1,
        )
    },
    Attack {
        then: b"x: y\r\n",
        every: Duration::ZERO,
        ..attack(
            "R6 trailers without end",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            &[413],
            1,
        )
    },
];

/// Runs one attacker until the server closes the connection. Returns the bytes that it received, and the time.
async fn run(a: Attack, front: Front) -> (String, Duration) {
    let (client, mut ended) = connect(&front, if a.read == ALL { 64 << 10 } else { 64 });
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(client);
    let sending = async {
        // Without an interval, many copies at once.
        let then = a.then.repeat(if a.every.is_zero() { 500 } else { 1 });
        let mut next: &[u8] = a.first.as_bytes();
        while write.write_all(next).await.is_ok() {
            next = &then;
            sleep(a.every).await;
        }
        std::future::pending::<()>().await;
    };
    let mut got = Vec::new();
    let reading = async {
        let Some((step, every)) = a.read else { return std::future::pending().await };
        let mut buf = vec![0; step];
        loop {
            let n = read.read(&mut buf).await.unwrap_or(0);
            got.extend_from_slice(&buf[..n]);
            sleep(if n == 0 { NEVER } else { every }).await;
        }
    };
    tokio::select! {
        _ = &mut ended => {}
        () = reading => {}
        () = sending => {}
    }
    let took = start.elapsed();
    if a.read == ALL {
        let _ = read.read_to_end(&mut got).await;
    }
    (String::from_utf8_lossy(&got).into_owned(), took)
}

/// Sends requests without end. Returns the longest time to a response.
async fn healthy(front: Front) -> Duration {
    let (mut client, _ended) = connect(&front, 1 << 20);
    let mut worst = Duration::ZERO;
    for _ in 0..1500 {
        let start = Instant::now();
        client
            .write_all(b"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
            .await
            .expect("it is still open");
        let (mut answer, mut buf) = (Vec::new(), [0; 1024]);
        while !answer.ends_with(b"thanks") {
            let n = client.read(&mut buf).await.expect("it is still open");
            assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buf[..n]);
        }
        worst = worst.max(start.elapsed());
        sleep(Duration::from_millis(100)).await;
    }
    worst
}

#[tokio::test(start_paused = true)]
async fn each_attack_ends_as_expected_and_healthy_clients_are_served() {
    let front = front();
    let mut attackers = JoinSet::new();
    for attack in ATTACKS {
        for _ in 0..EACH {
            let front = front.clone();
            attackers.spawn(async move { (attack, run(attack, front).await) });
        }
    }
    let healthy = tokio::spawn(healthy(front));
    while let Some(ended) = attackers.join_next().await {
        let (attack, (received, took)) = ended.unwrap();
        assert_eq!(statuses(&received), attack.status, "{}: {received:.300}", attack.name);
        // Five more seconds for the response to arrive.
        assert!(took.as_secs() <= attack.within + 5, "{}: {took:?}", attack.name);
    }
    let worst = timeout(secs(1000), healthy).await.expect("it hangs").unwrap();
    // The requests of three kinds reach the application once: 30 pages of 5 ms, two at a time.
    assert!(worst <= Duration::from_millis(100), "a response took {worst:?}");
}
