//! S17: responses before the end of the request, or after the client has disconnected. A connection on which either
//! message is incomplete never carries another request.

use super::*;

const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// Reads a connection until it is closed or reset.
async fn rest(server: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = within(server.read_to_end(&mut rest)).await;
    rest
}

/// Answers one request on a new connection.
async fn serve_one(script: &Script) -> (String, TcpStream) {
    let mut server = script.accept().await;
    let head = read_until(&mut server, "\r\n\r\n").await;
    server.write_all(OK.as_bytes()).await.unwrap();
    (head, server)
}

#[tokio::test]
async fn s17_response_after_the_timeout_is_discarded() {
    let (script, addr) = Script::new().await;
    let limits = Limits { head_timeout: Duration::from_millis(50), ..Limits::default() };
    let front = start(with_limits(addr, limits)).await;
    let server = async {
        let mut late = script.accept().await;
        read_until(&mut late, "\r\n\r\n").await;
        assert!(rest(&mut late).await.is_empty(), "closed, without another request");
        let _ = late.write_all(EVIL.as_bytes()).await;
        let mut kept = Vec::new();
        loop {
            kept.push(serve_one(&script).await);
            assert!(kept.last().unwrap().0.starts_with("GET /2 "));
        }
    };
    let client = async {
        let mut client = TcpStream::connect(front.addr).await.unwrap();
        client.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let first = read_until(&mut client, "\r\n\r\n").await;
        // On a busy machine, this server may be too slow for the next request, too.
        let mut second = exchange(front.addr, get("/2")).await;
        while statuses(&second) == [504] {
            second = exchange(front.addr, get("/2")).await;
        }
        (statuses(&first), second)
    };
    let (first, second) = tokio::select! {
        _ = server => unreachable!("it serves on"),
        answers = client => answers,
    };
    assert_eq!((first, statuses(&second)), (vec![504], vec![200]));
    assert!(second.ends_with("ok") && !second.contains("evil"), "{second}");
    front.stop().await;
}

#[tokio::test]
async fn s17_response_for_disconnected_client_is_discarded() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut late = script.accept().await;
    read_until(&mut late, "\r\n\r\n").await;
    reset(client);
    assert!(rest(&mut late).await.is_empty(), "closed with its client");
    let _ = late.write_all(EVIL.as_bytes()).await;
    let (answer, (head, _kept)) = tokio::join!(exchange(front.addr, get("/2")), serve_one(&script));
    assert!(head.starts_with("GET /2 "));
    assert!(answer.ends_with("ok") && !answer.contains("evil"), "{answer}");
    front.stop().await;
}

#[tokio::test]
async fn s17_rest_of_response_is_never_sent_to_another_client() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut late = script.accept().await;
    read_until(&mut late, "\r\n\r\n").await;
    late.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nsome").await.unwrap();
    read_until(&mut client, "some").await;
    reset(client);
    // The rest of the body looks like a response.
    let _ = late.write_all(EVIL.as_bytes()).await;
    assert!(rest(&mut late).await.is_empty());
    let (answer, (head, _kept)) = tokio::join!(exchange(front.addr, get("/2")), serve_one(&script));
    assert!(head.starts_with("GET /2 "));
    assert!(answer.ends_with("ok") && !answer.contains("evil"), "{answer}");
    front.stop().await;
}

#[tokio::test]
async fn s17_announced_body_that_is_not_sent_closes_the_connection() {
    // The client waits for 100 Continue, gets an error, and does not send the body.
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let server = async {
        let mut first = script.accept().await;
        let head = read_until(&mut first, "\r\n\r\n").await;
        assert!(head.contains("content-length: 50\r\n") && !head.contains("expect"), "{head}");
        first.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        assert!(rest(&mut first).await.is_empty(), "no request in place of the body");
        serve_one(&script).await
    };
    let client = async {
        let mut client = TcpStream::connect(front.addr).await.unwrap();
        let head =
            "POST /1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 50\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "no").await;
        assert_eq!(*statuses(&answer).last().unwrap(), 403, "{answer}");
        // Bytes that the client sends now are its body, and never a request.
        let _ = client.write_all(b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n").await;
        exchange(front.addr, get("/2")).await
    };
    let ((head, _kept), answer) = tokio::join!(server, client);
    assert!(head.starts_with("GET /2 "), "{head}");
    assert_eq!(statuses(&answer), [200]);
    front.stop().await;
}

#[tokio::test]
async fn s17_body_aborted_by_the_client_closes_the_connection() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let breaks = [
        ("Content-Length: 50", "part", ""),
        ("Transfer-Encoding: chunked", "4\r\npart\r\n", ""),
        ("Transfer-Encoding: chunked", "4\r\npart\r\n", "zz\r\n"),
    ];
    for (framing, part, then) in breaks {
        let arrived = Notify::new();
        let server = async {
            let mut first = script.accept().await;
            read_until(&mut first, "part").await;
            arrived.notify_one();
            let sent = String::from_utf8(rest(&mut first).await).unwrap();
            assert!(!sent.contains("GET ") && !sent.contains("0\r\n\r\n"), "not ended: {sent:?}");
            serve_one(&script).await
        };
        let client = async {
            let mut client = TcpStream::connect(front.addr).await.unwrap();
            let head = format!("POST /1 HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{part}");
            client.write_all(head.as_bytes()).await.unwrap();
            arrived.notified().await;
            client.write_all(then.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            let answer = read_all(&mut client).await;
            assert!(!statuses(&answer).contains(&200), "{answer}");
            exchange(front.addr, get("/2")).await
        };
        let ((head, kept), answer) = tokio::join!(server, client);
        assert!(head.starts_with("GET /2 "), "{head}");
        assert_eq!(statuses(&answer), [200]);
        drop(kept); // so that the next round opens a connection
    }
    front.stop().await;
}

#[tokio::test]
async fn s17_response_before_the_end_of_the_body_does_not_truncate_the_body() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let server = async {
        let mut server = script.accept().await;
        read_until(&mut server, "half").await;
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nea").await.unwrap();
        assert_eq!(read_until(&mut server, "rest").await, "rest", "the body continues");
        server.write_all(b"rl").await.unwrap();
        // Both messages are complete, so the connection carries another request.
        let second = read_until(&mut server, "\r\n\r\n").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        second
    };
    let client = async {
        let mut client = TcpStream::connect(front.addr).await.unwrap();
        let head = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf";
        client.write_all(head.as_bytes()).await.unwrap();
        read_until(&mut client, "\r\n\r\nea").await;
        client.write_all(b"rest").await.unwrap();
        assert_eq!(read_until(&mut client, "rl").await, "rl");
        client.write_all(get("/2").as_bytes()).await.unwrap();
        read_all(&mut client).await
    };
    let (second, answer) = tokio::join!(server, client);
    assert!(second.starts_with("GET /2 "), "{second}");
    assert_eq!(statuses(&answer), [200]);
    front.stop().await;
}
