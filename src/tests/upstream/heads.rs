//! Heads that a gateway relays or rewrites: interim responses, expectations, `Host`, paths, redirects and
//! cookies.

use http::{HeaderName, HeaderValue};

use super::*;
use crate::{
    conn::InterimResponses,
    layer::EditFieldsLayer,
    semantics::rewrite::Rewrite,
    upstream::{EmptySet, HostPolicy, UpstreamBuilder, discover::fixed},
};

fn to(addr: SocketAddr) -> UpstreamBuilder {
    UpstreamBuilder::new().server(addr.to_string())
}

#[tokio::test]
async fn early_hints_reach_the_client_before_the_response() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    for _ in 0..2 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut server = script.accept().await;
        read_until(&mut server, "\r\n\r\n").await;
        let hints =
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nKeep-Alive: x\r\n\r\n";
        server.write_all(hints.as_bytes()).await.unwrap();
        let interim = read_until(&mut client, "\r\n\r\n").await;
        assert_eq!(interim, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
        // Another comes with the response.
        let both = format!(
            "HTTP/1.1 102 Processing\r\n\r\n{}",
            OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
        );
        server.write_all(both.as_bytes()).await.unwrap();
        let rest = read_until(&mut client, "ok").await;
        assert!(rest.starts_with("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n"), "{rest}");
    }
    drop(client);
    front.stop().await;
}

#[tokio::test]
async fn client_of_http_1_0_gets_no_early_hints() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let server = async {
        let mut server = script.accept().await;
        read_until(&mut server, "\r\n\r\n").await;
        let both = format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}");
        server.write_all(both.as_bytes()).await.unwrap();
        server
    };
    let request = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    let (_server, answer) = tokio::join!(server, exchange(front.addr, request));
    assert_eq!(statuses(&answer), [200]);
    front.stop().await;
}

#[tokio::test]
async fn service_sends_early_hints_of_its_own() {
    let service = tower::service_fn(|request: Request| async move {
        let interim = request.extensions().get::<InterimResponses>().unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert("link", HeaderValue::from_static("</b>"));
        interim.send(http::StatusCode::EARLY_HINTS, headers).unwrap();
        Ok::<_, std::convert::Infallible>(http::Response::new(Body::from("ok")))
    });
    let front = start(service).await;
    let answer = exchange(front.addr, get("/")).await;
    assert!(
        answer.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{answer}"
    );
    front.stop().await;
}

const EXPECTS: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-Continue\r\n\r\n";

#[tokio::test]
async fn refusal_of_an_expectation_arrives_before_the_body() {
    let (script, addr) = Script::new().await;
    let front = start(to(addr).forward_expect(true).build().unwrap()).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(EXPECTS.as_bytes()).await.unwrap();
    let mut server = script.accept().await;
    let head = read_until(&mut server, "\r\n\r\n").await;
    assert!(head.contains("expect: 100-Continue\r\n"), "{head}");
    let refusal = "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n";
    server.write_all(refusal.as_bytes()).await.unwrap();
    let answer = read_until(&mut client, "\r\n\r\n").await;
    assert_eq!(statuses(&answer), [413], "and no 100");
    // The announced body will not be sent, so the connection serves no other request.
    let mut rest = Vec::new();
    within(server.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "no part of the body is sent");
    drop(client);
    front.stop().await;
}

#[tokio::test]
async fn body_is_sent_after_the_server_accepts_the_expectation() {
    let (script, addr) = Script::new().await;
    let front = start(to(addr).forward_expect(true).build().unwrap()).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(EXPECTS.as_bytes()).await.unwrap();
    let mut server = script.accept().await;
    read_until(&mut server, "\r\n\r\n").await;
    server.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    let go = read_until(&mut client, "\r\n\r\n").await;
    assert_eq!(go, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").await.unwrap();
    assert_eq!(read_until(&mut server, "body").await, "body");
    server.write_all(OK.as_bytes()).await.unwrap();
    assert!(read_until(&mut client, "ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
    drop(client);
    front.stop().await;
}

/// Sends a request through a gateway that forwards `Expect`, to a server that answers after the body. Returns what the
/// server gets, and the response.
async fn forward_with_expect(request: String) -> (String, String) {
    let (script, addr) = Script::new().await;
    let front = start(to(addr).forward_expect(true).build().unwrap()).await;
    let server = async {
        let mut server = script.accept().await;
        let all = read_until(&mut server, "body").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        (server, all)
    };
    let ((_server, all), answer) = tokio::join!(server, exchange(front.addr, request));
    front.stop().await;
    (all, answer)
}

#[tokio::test]
async fn server_that_ignores_an_expectation_gets_the_body_after_a_timeout() {
    let request = format!("{}body", EXPECTS.replace("Expect", "Connection: close\r\nExpect"));
    let (all, answer) = forward_with_expect(request).await;
    assert!(all.contains("expect: 100-Continue\r\n") && answer.ends_with("ok"), "{all} {answer}");
}

#[tokio::test]
async fn expectation_of_http_1_0_is_ignored() {
    let request = format!("{}body", EXPECTS.replace("HTTP/1.1", "HTTP/1.0"));
    let (all, answer) = forward_with_expect(request).await;
    assert!(!all.contains("expect"), "{all}");
    assert_eq!(statuses(&answer), [200]);
}

#[tokio::test]
async fn expectation_is_answered_by_the_gateway_unless_it_is_forwarded() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(EXPECTS.as_bytes()).await.unwrap();
    assert_eq!(statuses(&read_until(&mut client, "\r\n\r\n").await), [100]);
    client.write_all(b"body").await.unwrap();
    let mut server = script.accept().await;
    assert!(!read_until(&mut server, "body").await.contains("expect"));
    drop((client, server));
    front.stop().await;
}

#[tokio::test]
async fn max_forwards_is_kept_if_connection_names_it() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let request = "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 5\r\n\
                   Connection: close, Max-Forwards\r\n\r\n";
    let server = async {
        let mut server = script.accept().await;
        let head = read_until(&mut server, "\r\n\r\n").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        head
    };
    let (head, _) = tokio::join!(server, exchange(front.addr, request));
    assert!(head.contains("max-forwards: 4\r\n"), "{head}");
    front.stop().await;
}

#[tokio::test]
async fn paths_redirects_and_cookies_are_rewritten_both_ways() {
    let (script, addr) = Script::new().await;
    let rewrite = Rewrite::new().path("/app", "/base").unwrap();
    let proxy = to(addr).rewrite(rewrite).host(HostPolicy::Server).build().unwrap();
    let front = start(proxy).await;
    let server = async {
        let mut server = script.accept().await;
        let head = read_until(&mut server, "\r\n\r\n").await;
        let redirect = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{addr}/base/login\r\n\
             Set-Cookie: a=b; Path=/base/\r\nContent-Length: 0\r\n\r\n"
        );
        server.write_all(redirect.as_bytes()).await.unwrap();
        head
    };
    let (head, answer) = tokio::join!(server, exchange(front.addr, get("/app/x?y")));
    assert!(head.starts_with("GET /base/x?y HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {addr}\r\n")), "{head}");
    assert!(head.contains("x-forwarded-host: a\r\n"), "{head}");
    assert!(answer.contains("location: /app/login\r\n"), "{answer}");
    assert!(answer.contains("set-cookie: a=b; Path=/app/\r\n"), "{answer}");
    assert_eq!(statuses(&exchange(front.addr, get("/other")).await), [404]);
    front.stop().await;
}

#[tokio::test]
async fn path_with_dot_segment_is_refused_if_paths_are_rewritten() {
    let (_script, addr) = Script::new().await;
    let rewrite = Rewrite::new().path("/app", "/base").unwrap();
    let front = start(to(addr).rewrite(rewrite).build().unwrap()).await;
    for path in ["/app/../admin", "/app/%2e%2E/admin", "/app/a/..", "/app/..;x/admin"] {
        assert_eq!(statuses(&exchange(front.addr, get(path)).await), [400], "{path}");
    }
    front.stop().await;
}

#[tokio::test]
async fn redirect_of_followed_server_to_itself_is_rewritten() {
    let (script, addr) = Script::new().await;
    for host in [HostPolicy::Client, HostPolicy::Server] {
        let rewrite = Rewrite::new().path("/app", "/base").unwrap();
        let proxy = UpstreamBuilder::new().empty(EmptySet::Fail).rewrite(rewrite);
        let proxy = proxy.host(host).build().unwrap();
        proxy.follow(fixed([addr.to_string().parse().unwrap()])).await;
        let front = start(proxy).await;
        let server = async {
            let mut server = script.accept().await;
            read_until(&mut server, "\r\n\r\n").await;
            let redirect = format!(
                "HTTP/1.1 302 Found\r\nLocation: http://{addr}/base/login\r\nContent-Length: 0\r\n\r\n"
            );
            server.write_all(redirect.as_bytes()).await.unwrap();
            server
        };
        let (_server, answer) = tokio::join!(server, exchange(front.addr, get("/app/x")));
        assert!(answer.contains("location: /app/login\r\n"), "{answer}");
        front.stop().await;
    }
}

#[tokio::test]
async fn fixed_host_replaces_that_of_the_client() {
    let (script, addr) = Script::new().await;
    let host = HostPolicy::Fixed(HeaderValue::from_static("site.example"));
    let front = start(to(addr).host(host).build().unwrap()).await;
    let server = async {
        let mut server = script.accept().await;
        let head = read_until(&mut server, "\r\n\r\n").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        head
    };
    let (head, _) = tokio::join!(server, exchange(front.addr, get("/")));
    assert!(head.contains("host: site.example\r\n"), "{head}");
    assert_eq!(head.matches("\r\nhost: ").count(), 1, "{head}");
    front.stop().await;
}

#[tokio::test]
async fn s23_connection_removes_no_field_that_a_layer_adds() {
    let (script, addr) = Script::new().await;
    let user = HeaderName::from_static("x-user");
    let layer = EditFieldsLayer::new().set_in_request(user, HeaderValue::from_static("alice"));
    let front = start(layer.layer(upstream(&[addr]))).await;
    let server = async {
        let mut server = script.accept().await;
        let head = read_until(&mut server, "\r\n\r\n").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        head
    };
    let request =
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-User, x-hop\r\nX-Hop: 1\r\n\r\n";
    let (head, answer) = tokio::join!(server, exchange(front.addr, request));
    assert_eq!(statuses(&answer), [200]);
    assert!(head.contains("\r\nx-user: alice\r\n") && !head.contains("x-hop"), "{head}");
    front.stop().await;
}
