//! Tests of the proxy with scripted servers: the forwarded requests, and the handling of their responses.

mod endpoints;
#[cfg(feature = "etcd")]
mod etcd;
mod forwarding;
mod heads;
mod late;
mod pipes;
mod replay;
#[cfg(all(feature = "h2", feature = "tls"))]
mod secured;
mod shared;
mod shared_unread;
mod uploads;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::Instant,
};
use tower::{Layer, ServiceExt};

use super::support::{
    Running, exchange, read_all, read_until, refusing, reset, start, start_with, statuses, within,
};
use crate::{
    Body, Error, Request, layer::RequestBufferLayer, peer::Deadline, proto::h1::Limits,
    upstream::Upstream,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A scripted server.
struct Script(TcpListener);

impl Script {
    async fn new() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (Self(listener), addr)
    }

    async fn accept(&self) -> TcpStream {
        within(self.0.accept()).await.unwrap().0
    }
}

async fn proxy(to: &[SocketAddr]) -> Running {
    start(upstream(to)).await
}

fn upstream(to: &[SocketAddr]) -> Upstream {
    Upstream::new(to.iter().map(ToString::to_string)).unwrap()
}

fn with_limits(to: SocketAddr, limits: Limits) -> Upstream {
    Upstream::builder([to.to_string()]).limits(limits).build().unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn s23_s24_hop_by_hop_and_forged_fields_are_replaced() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let server = async {
        let mut server = script.accept().await;
        let head = read_until(&mut server, "\r\n\r\n").await;
        let answer = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive, X-Hop\r\n\
                      X-Hop: 1\r\nX-End: 1\r\nContent-Length: 2\r\n\r\nok";
        server.write_all(answer.as_bytes()).await.unwrap();
        (head, server)
    };
    // S23, S24: `Connection` names a field that the gateway sets, and offers h2c.
    let request = "GET /p?q HTTP/1.1\r\nHost: example.com\r\n\
        Connection: close, X-Forwarded-For, X-Secret, Upgrade, HTTP2-Settings\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: AA\r\nX-Forwarded-For: 6.6.6.6\r\nX-Secret: 1\r\n\
        X-Real-IP: 6.6.6.6\r\nProxy: http://evil/\r\nTE: trailers\r\nX-Kept: 1\r\n\r\n";
    let ((head, _server), answer) = tokio::join!(server, exchange(front.addr, request));
    assert_eq!(
        head,
        "GET /p?q HTTP/1.1\r\nhost: example.com\r\nx-kept: 1\r\nx-forwarded-for: 127.0.0.1\r\n\
         x-forwarded-proto: http\r\nx-forwarded-host: example.com\r\n\r\n"
    );
    assert_eq!(statuses(&answer), [200]);
    assert!(answer.contains("x-end: 1\r\n") && !answer.contains("x-hop"), "{answer}");
    assert!(!answer.contains("keep-alive"), "{answer}");
    front.stop().await;
}

#[tokio::test]
async fn connection_is_reused_and_each_body_is_framed_anew() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let server = async {
        let mut server = script.accept().await; // one connection for all of it
        let first = read_until(&mut server, "hello").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        let second = read_until(&mut server, "\r\n0\r\n\r\n").await;
        server.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        server.write_all(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n").await.unwrap();
        let third = read_until(&mut server, "\r\n\r\n").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        (first, second, third)
    };
    let client = exchange(
        front.addr,
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
         POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let ((first, second, third), answer) = tokio::join!(server, client);
    assert!(first.contains("content-length: 5\r\n") && !first.contains("transfer-encoding"));
    assert!(second.contains("transfer-encoding: chunked\r\n"));
    assert!(!second.contains("content-length") && second.ends_with("\r\n0\r\n\r\n"), "{second}");
    assert!(third.starts_with("GET /3 ") && !third.contains("content-length"), "{third}");
    assert_eq!(statuses(&answer), [200, 200, 200]);
    assert!(answer.contains("3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"), "{answer}");
    front.stop().await;
}

#[tokio::test]
async fn s19_responses_that_can_be_read_in_two_ways_are_502_and_their_connection_ends() {
    // S19: malformed responses, each followed by a smuggled second response.
    let cases = [
        "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nContent-Length: 30\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
        "nonsense\r\n\r\n",
        &"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(9),
    ];
    for case in cases {
        let (script, addr) = Script::new().await;
        let front = proxy(&[addr]).await;
        let server = async {
            let mut server = script.accept().await;
            read_until(&mut server, "\r\n\r\n").await;
            server
                .write_all(format!("{case}HTTP/1.1 200 OK\r\n\r\nevil").as_bytes())
                .await
                .unwrap();
            // It is closed, although bytes are still unread.
            let mut rest = Vec::new();
            let _ = within(server.read_to_end(&mut rest)).await;
            assert!(rest.is_empty(), "nothing more was sent on it");
        };
        let (answer, ()) = tokio::join!(exchange(front.addr, get("/")), server);
        assert_eq!(statuses(&answer), [502], "{case:?}: {answer}");
        assert!(!answer.contains("evil"));
        front.stop().await;
    }
}

#[tokio::test]
async fn s19_response_is_never_given_to_the_next_request() {
    // Bytes after a complete response, and a response before a request: neither is parsed as the response to the next
    // request.
    for early in [false, true] {
        let (script, addr) = Script::new().await;
        let front = proxy(&[addr]).await;
        let (answered, sent) = (Notify::new(), Notify::new());
        let server = async {
            let mut first = script.accept().await;
            read_until(&mut first, "\r\n\r\n").await;
            let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            if early {
                first.write_all(OK.as_bytes()).await.unwrap();
                answered.notified().await; // and so the connection is idle
                first.write_all(evil.as_bytes()).await.unwrap();
                sent.notify_one();
            } else {
                first.write_all(format!("{OK}{evil}").as_bytes()).await.unwrap();
            }
            let mut second = script.accept().await;
            read_until(&mut second, "\r\n\r\n").await;
            second.write_all(OK.as_bytes()).await.unwrap();
            (first, second)
        };
        let client = async {
            let mut client = TcpStream::connect(front.addr).await.unwrap();
            client.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let first = read_until(&mut client, "ok").await;
            if early {
                answered.notify_one();
                sent.notified().await;
                // Waits until the unsolicited bytes have arrived: this response of the same runtime comes after
                // them.
                exchange(front.addr, "BAD\r\n\r\n").await;
            }
            client.write_all(get("/2").as_bytes()).await.unwrap();
            first + &read_all(&mut client).await
        };
        let (_kept, answer) = tokio::join!(server, client);
        assert_eq!(statuses(&answer), [200, 200]);
        assert!(!answer.contains("evil"), "{answer}");
        front.stop().await;
    }
}

#[tokio::test]
async fn s17_server_that_answers_before_the_body_is_not_used_again() {
    // S17: the body was announced and not sent; the next bytes on that connection would be the body.
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let server = async {
        let mut first = script.accept().await;
        let head = read_until(&mut first, "part").await;
        assert!(head.contains("content-length: 1000000\r\n"));
        first.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        let mut rest = Vec::new();
        let _ = within(first.read_to_end(&mut rest)).await;
        assert!(!rest.windows(4).any(|w| w == b"GET "), "no request in place of the body");
        let mut second = script.accept().await;
        read_until(&mut second, "\r\n\r\n").await;
        second.write_all(OK.as_bytes()).await.unwrap();
    };
    let client = async {
        let mut client = TcpStream::connect(front.addr).await.unwrap();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\npart";
        client.write_all(head.as_bytes()).await.unwrap();
        let first = read_until(&mut client, "no").await;
        assert_eq!(statuses(&first), [403]);
        assert_eq!(statuses(&exchange(front.addr, get("/2")).await), [200]);
    };
    tokio::join!(server, client);
    front.stop().await;
}

#[tokio::test]
async fn s1_bytes_behind_an_upgrade_are_parsed_as_next_request() {
    // S1: the upgrade is not forwarded, and the response is 200.
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let server = async {
        let mut server = script.accept().await;
        let first = read_until(&mut server, "\r\n\r\n").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        let second = read_until(&mut server, "\r\n\r\n").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        (first, second)
    };
    let client = exchange(
        front.addr,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n\
         GET /admin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let ((first, second), answer) = tokio::join!(server, client);
    assert!(!first.to_lowercase().contains("upgrade"), "{first}");
    assert!(second.starts_with("GET /admin ") && second.contains("x-forwarded-for"));
    assert_eq!(statuses(&answer), [200, 200]);
    front.stop().await;
}

#[tokio::test]
async fn closed_idle_connection_is_replaced_for_get_and_not_for_post() {
    for (method, expected) in [("GET", 200), ("POST", 502)] {
        let (script, addr) = Script::new().await;
        let front = proxy(&[addr]).await;
        let server = async {
            let mut first = script.accept().await;
            read_until(&mut first, "\r\n\r\n").await;
            first.write_all(OK.as_bytes()).await.unwrap();
            // Closed when the next request has been sent.
            read_until(&mut first, "\r\n\r\n").await;
            drop(first);
            if expected == 200 {
                let mut second = script.accept().await;
                read_until(&mut second, "\r\n\r\n").await;
                second.write_all(OK.as_bytes()).await.unwrap();
            }
        };
        let client = exchange(
            front.addr,
            format!(
                "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
                 {method} /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            ),
        );
        let ((), answer) = tokio::join!(server, client);
        assert_eq!(statuses(&answer), [200, expected], "{method}");
        front.stop().await;
    }
}

#[tokio::test]
async fn servers_take_turns_and_dead_one_is_ejected() {
    let (one, first) = Script::new().await;
    let (two, second) = Script::new().await;
    let dead = refusing();
    let front = proxy(&[first, dead, second]).await;
    let answers = |script: Script, name: &'static str| async move {
        loop {
            let mut server = script.0.accept().await.unwrap().0;
            tokio::spawn(async move {
                loop {
                    read_until(&mut server, "\r\n\r\n").await;
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
                    server.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    };
    tokio::spawn(answers(one, "1"));
    tokio::spawn(answers(two, "2"));
    let mut got = String::new();
    for _ in 0..8 {
        let answer = exchange(front.addr, get("/")).await;
        assert_eq!(statuses(&answer), [200]);
        got.push(answer.chars().last().unwrap());
    }
    assert!(got.matches('1').count() >= 3 && got.matches('2').count() >= 3, "{got}");
    front.stop().await;
}

#[tokio::test]
async fn missing_server_is_502_and_silent_one_is_504() {
    let dead = refusing();
    let front = proxy(&[dead]).await;
    assert_eq!(statuses(&exchange(front.addr, get("/")).await), [502]);
    front.stop().await;

    let (script, addr) = Script::new().await;
    let limits = Limits { head_timeout: Duration::from_millis(50), ..Limits::default() };
    let front = start(with_limits(addr, limits)).await;
    let (answer, _silent) = tokio::join!(exchange(front.addr, get("/")), script.accept());
    assert_eq!(statuses(&answer), [504]);
    front.stop().await;
}

#[tokio::test]
async fn truncated_response_is_aborted_for_the_client() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let server = async {
        let mut server = script.accept().await;
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
    };
    let client =
        exchange(front.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    let ((), answer) = tokio::join!(server, client);
    assert_eq!(statuses(&answer), [200], "no second response after half of the first");
    assert!(answer.contains("content-length: 10\r\n"), "{answer}");
    front.stop().await;
}

#[tokio::test]
async fn s17_client_that_disconnects_midway_closes_the_server_connection() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let began = Arc::new(Notify::new());
    let server = async {
        let mut server = script.accept().await;
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome").await.unwrap();
        began.notify_one();
        let mut rest = Vec::new();
        let _ = within(server.read_to_end(&mut rest)).await;
    };
    let client = async {
        let mut client = TcpStream::connect(front.addr).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        began.notified().await;
        read_until(&mut client, "some").await;
        reset(client);
    };
    tokio::join!(server, client);
    front.stop().await;
}

#[tokio::test]
async fn large_bodies_pass_whole_in_both_directions() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let body: Vec<u8> =
        (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let server = async {
        let mut server = script.accept().await;
        read_until(&mut server, "\r\n\r\n").await;
        let mut got = vec![0; body.len()];
        within(server.read_exact(&mut got)).await.unwrap();
        assert!(got == body);
        // Without a length, the body ends with the connection.
        server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        within(server.write_all(&got)).await.unwrap();
    };
    let client = async {
        let client = TcpStream::connect(front.addr).await.unwrap();
        let (mut read, mut write) = client.into_split();
        let head = format!("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        write.write_all(head.as_bytes()).await.unwrap();
        within(write.write_all(&body)).await.unwrap();
        let mut answer = Vec::new();
        within(read.read_to_end(&mut answer)).await.unwrap();
        answer
    };
    let ((), answer) = tokio::join!(server, client);
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(answer[end..] == body);
    front.stop().await;
}

#[tokio::test]
async fn trailers_reach_the_server_through_request_buffer() {
    let (script, addr) = Script::new().await;
    let front = start(RequestBufferLayer::new().layer(upstream(&[addr]))).await;
    let server = async {
        let mut server = script.accept().await;
        let request = read_until(&mut server, "x-sum: 1\r\n\r\n").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        request
    };
    let request = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                   2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n";
    let (request, answer) = tokio::join!(within(server), exchange(front.addr, request));
    assert!(request.ends_with("\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n"), "{request}");
    assert_eq!(statuses(&answer), [200]);
    front.stop().await;
}

#[tokio::test]
async fn deadline_limits_all_attempts_and_expired_request_is_not_sent() {
    let (script, addr) = Script::new().await;
    let asked = |deadline: Instant| {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "http://a/".parse().unwrap();
        request.extensions_mut().insert(Deadline(deadline.into_std()));
        upstream(&[addr]).oneshot(request)
    };
    let passed = asked(Instant::now()).await.unwrap_err();
    assert!(Error::find(&*passed).is_some_and(Error::is_timeout), "{passed}");
    // That request did not connect: the first accepted connection is that of this request.
    let (answer, head) = tokio::join!(asked(Instant::now() + Duration::from_millis(100)), async {
        let mut server = script.accept().await;
        let head = read_until(&mut server, "\r\n\r\n").await;
        // The server never responds, and sees the proxy close the connection.
        assert_eq!(read_all(&mut server).await, "");
        head
    });
    assert!(head.starts_with("GET / HTTP/1.1\r\n"));
    assert!(Error::find(&*answer.unwrap_err()).is_some_and(Error::is_timeout));
}
