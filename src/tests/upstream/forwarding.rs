//! Tests of forwarded requests and of errors on the wire: the client behind a trusted proxy, `Via`,
//! `Max-Forwards`, TRACE, and the text of errors.

use axum::{Router, routing::get as get_route};
use http::Request as HttpRequest;
use tower::{Layer, ServiceBuilder};
use tower_http::trace::TraceLayer;

use super::*;
use crate::{
    HttpService,
    layer::{
        ClientField, ConcurrencyLimitLayer, ForwardAuthLayer, RescueExt, RescueLayer,
        TrustedProxyLayer, rescue::Responder,
    },
    peer::Peer,
    semantics::{
        forwarded::{ForwardedFields, Trust},
        via::Via,
    },
};

/// A layer that trusts proxies in 10.0.0.0/8 and on loopback, from which the tests connect.
fn trusted() -> TrustedProxyLayer {
    let layer = TrustedProxyLayer::new(ClientField::XForwardedFor).x_forwarded_proto(true);
    layer.trust("127.0.0.0/8".parse().unwrap()).trust("10.0.0.0/8".parse().unwrap())
}

/// Returns the head that the server of `script` receives for `request`, and the response.
async fn through<S>(script: &Script, service: S, request: &str) -> (String, String)
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send,
{
    let front = start(service).await;
    let server = async {
        let mut server = script.accept().await;
        let head = read_until(&mut server, "\r\n\r\n").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        head
    };
    let (head, answer) = tokio::join!(server, exchange(front.addr, request));
    front.stop().await;
    (head, answer)
}

#[tokio::test]
async fn upstream_server_gets_the_client_that_a_trusted_proxy_names() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
        X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\nX-Forwarded-For: 10.0.0.2\r\nX-Real-IP: 6.6.6.6\r\n\
        X-Forwarded-Proto: https\r\nX-Forwarded-Host: example.com\r\n\r\n";
    for (trust, want) in [
        (
            Trust::Replace,
            "x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\nx-forwarded-host: a\r\n",
        ),
        (
            Trust::Append,
            "x-forwarded-proto: https\r\nx-forwarded-host: example.com\r\n\
             x-forwarded-for: 192.0.2.7, 10.0.0.2, 127.0.0.1\r\n",
        ),
    ] {
        let (script, addr) = Script::new().await;
        let fields = ForwardedFields::new().trust(trust);
        let servers = Upstream::builder([addr.to_string()]).forward(fields).build().unwrap();
        let site = ServiceBuilder::new()
            .layer(trusted())
            .layer(TraceLayer::new_for_http())
            .layer(RescueLayer::new())
            .layer(ConcurrencyLimitLayer::new(1))
            .service(servers);
        let (head, answer) = through(&script, site, request).await;
        assert_eq!(statuses(&answer), [200]);
        let fields: Vec<_> = head.split("\r\n").filter(|line| line.starts_with("x-")).collect();
        let mut want: Vec<_> = want.split("\r\n").filter(|line| !line.is_empty()).collect();
        want.sort_unstable();
        let mut fields = fields.clone();
        fields.sort_unstable();
        assert_eq!(fields, want, "{trust:?}");
    }
}

#[tokio::test]
async fn untrusted_peer_is_the_client_whatever_its_fields() {
    let request =
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    for trust in [Trust::Replace, Trust::Append] {
        let (script, addr) = Script::new().await;
        let fields = ForwardedFields::new().trust(trust);
        let servers = Upstream::builder([addr.to_string()]).forward(fields).build().unwrap();
        let layer = TrustedProxyLayer::new(ClientField::XForwardedFor);
        let (head, _) = through(&script, layer.layer(servers), request).await;
        assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n"), "{trust:?}: {head}");
    }
}

#[tokio::test]
async fn authorization_service_behind_an_upstream_gets_the_request_that_it_authorizes() {
    let request = "POST /%61dmin?x=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\
        X-Forwarded-Uri: /public\r\nX-Forwarded-Method: GET\r\nX-Forwarded-User: root\r\n\r\n";
    let (script, addr) = Script::new().await;
    let authorizer = Upstream::builder([addr.to_string()]).build().unwrap();
    let app = Router::new().fallback(async || "app");
    let site = ForwardAuthLayer::new(authorizer, "/check").layer(app);
    let (head, answer) = through(&script, site, request).await;
    assert!(head.starts_with("GET /check HTTP/1.1\r\n"), "{head}");
    let mut fields: Vec<_> = head.split("\r\n").filter(|line| line.starts_with("x-")).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: a",
            "x-forwarded-method: POST",
            "x-forwarded-proto: http",
            "x-forwarded-uri: /%61dmin?x=1",
        ]
    );
    assert!(answer.ends_with("\r\n\r\napp"), "{answer}");
}

#[tokio::test]
async fn trusted_proxy_layer_serves_over_and_under_axum() {
    async fn client(request: HttpRequest<axum::body::Body>) -> String {
        request.extensions().get::<Peer>().unwrap().to_string()
    }
    let over = trusted().layer(Router::new().route("/", get_route(client)));
    let under = Router::new().fallback_service(over.clone().infallible());
    let request = |value| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: {value}\r\n\r\n"
        )
    };
    let front = start(over).await;
    assert!(exchange(front.addr, request("192.0.2.7")).await.ends_with("\r\n\r\n192.0.2.7"));
    let refused = exchange(front.addr, request("192.0.2.7 or so")).await;
    assert_eq!(statuses(&refused), [400]);
    assert!(refused.ends_with("\r\n\r\n400 Bad Request\n"), "{refused}");
    front.stop().await;
    let front = start(under).await;
    assert!(exchange(front.addr, request("192.0.2.7")).await.ends_with("\r\n\r\n192.0.2.7"));
    assert_eq!(statuses(&exchange(front.addr, request("192.0.2.7 or so")).await), [400]);
    front.stop().await;
}

#[tokio::test]
async fn via_is_added_both_ways_by_choice() {
    let request = "GET / HTTP/1.0\r\nHost: a\r\nVia: 1.1 client's\r\n\r\n";
    let (script, addr) = Script::new().await;
    let (head, answer) = through(&script, upstream(&[addr]), request).await;
    assert!(head.contains("via: 1.1 client's\r\n") && head.matches("via: ").count() == 1, "{head}");
    assert!(!answer.contains("via: "), "{answer}");

    let via = Via::new("front").unwrap();
    let servers = Upstream::builder([addr.to_string()]).via(via).build().unwrap();
    let (head, answer) = through(&script, servers, request).await;
    assert!(head.contains("via: 1.1 client's\r\nvia: 1.0 front\r\n"), "{head}");
    assert!(answer.contains("via: 1.1 front\r\n"), "{answer}");
}

#[tokio::test]
async fn gateway_answers_trace_and_max_forwards_zero() {
    let (_script, addr) = Script::new().await;
    let builder = || Upstream::builder([addr.to_string()]);
    let ask = async |servers: Upstream, method: &str, fields: &str| {
        let front = start(servers).await;
        let request =
            format!("{method} /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
        let answer = exchange(front.addr, request).await;
        front.stop().await;
        answer
    };
    let answer = ask(upstream(&[addr]), "TRACE", "").await;
    assert_eq!(statuses(&answer), [501]);
    assert!(answer.ends_with("\r\n\r\n501 Not Implemented\n"), "{answer}");
    let answer = ask(upstream(&[addr]), "OPTIONS", "Max-Forwards: 0\r\n").await;
    assert_eq!(statuses(&answer), [200]);
    assert!(answer.contains("content-length: 0\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let traces = || builder().forward_trace(true).build().unwrap();
    let answer = ask(traces(), "TRACE", "Max-Forwards: 0\r\nAccept: application/json\r\n").await;
    assert_eq!(statuses(&answer), [501]);
    assert!(answer.contains("content-type: application/problem+json\r\n"), "{answer}");
    for fields in ["Max-Forwards: x\r\n", "Max-Forwards: 1\r\nMax-Forwards: 1\r\n"] {
        assert_eq!(statuses(&ask(upstream(&[addr]), "OPTIONS", fields).await), [400]);
    }
    let answer = ask(traces(), "TRACE", "Content-Length: 1\r\n\r\nx").await;
    assert_eq!(statuses(&answer), [400]);
}

#[tokio::test]
async fn forwarded_trace_has_no_credentials_and_one_hop_less() {
    let (script, addr) = Script::new().await;
    let servers = Upstream::builder([addr.to_string()]).forward_trace(true).build().unwrap();
    let request = "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nMax-Forwards: 3\r\n\
        Authorization: secret\r\nCookie: secret\r\nProxy-Authorization: secret\r\n\r\n";
    let (head, answer) = through(&script, servers, request).await;
    assert!(head.starts_with("TRACE / ") && head.contains("max-forwards: 2\r\n"), "{head}");
    assert!(!head.contains("secret"), "{head}");
    assert_eq!(statuses(&answer), [200]);
}

#[tokio::test]
async fn every_error_response_has_the_same_format() {
    let dead = refusing();
    let folder = tempfile::tempdir().unwrap();
    let site = crate::Router::new()
        .prefix("/api", upstream(&[dead]))
        .nest("/files", crate::files::dir(folder.path()));
    let front = start(RescueLayer::new().layer(site)).await;
    let ask = async |request: &str| exchange(front.addr, request).await;
    let close = "Host: a\r\nConnection: close\r\n";
    for (request, text) in [
        (format!("GET /api HTTP/1.1\r\n{close}\r\n"), "502 Bad Gateway"),
        (format!("GET /none HTTP/1.1\r\n{close}\r\n"), "404 Not Found"),
        (format!("GET /files/none HTTP/1.1\r\n{close}\r\n"), "404 Not Found"),
        (format!("DELETE /files/none HTTP/1.1\r\n{close}\r\n"), "405 Method Not Allowed"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400 Bad Request"), // the driver's own: no Host
        ("GET / HTTP/3.1\r\n\r\n".to_owned(), "505 HTTP Version Not Supported"),
    ] {
        let answer = ask(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {text}\r\n")), "{answer}");
        assert!(answer.contains("content-type: text/plain; charset=utf-8\r\n"), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{text}\n")), "{answer}");
    }
    for (path, status, title) in [
        ("/api", 502, "Bad Gateway"),
        ("/none", 404, "Not Found"),
        ("/files/none", 404, "Not Found"),
        ("/files/%00", 400, "Bad Request"),
    ] {
        let json = format!(r#"{{"status":{status},"title":"{title}"}}"#);
        for method in ["GET", "HEAD"] {
            let accept = "Accept: application/json\r\n";
            let answer = ask(&format!("{method} {path} HTTP/1.1\r\n{close}{accept}\r\n")).await;
            assert!(answer.contains("content-type: application/problem+json\r\n"), "{answer}");
            assert!(answer.contains("vary: accept\r\n"), "{answer}");
            assert!(answer.contains(&format!("content-length: {}\r\n", json.len())), "{answer}");
            let body = answer.split_once("\r\n\r\n").unwrap().1;
            assert_eq!(body, if method == "GET" { json.as_str() } else { "" });
        }
    }
    front.stop().await;
}

#[tokio::test]
async fn response_names_exceeded_body_limit_for_any_framing() {
    async fn answer_of<R>(layer: RescueLayer<R>, request: &str) -> String
    where
        R: Responder + Clone + Send + 'static,
    {
        let buffer = RequestBufferLayer::new().max_body(4);
        let echo = tower::service_fn(async |request: Request| {
            let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
            Ok::<_, crate::BoxError>(crate::Response::new(Body::from(body)))
        });
        let streamed = buffer.stream_if(|request| request.uri().path() == "/streamed");
        let front = start(layer.layer(streamed.layer(echo))).await;
        let answer = exchange(front.addr, request).await;
        front.stop().await;
        answer
    }
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for (path, body) in [
        ("/declared", "Content-Length: 5\r\n\r\nhello"),
        ("/grows", chunked),
        ("/streamed", chunked),
    ] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{body}");
        let named = answer_of(RescueLayer::new().tell_limits(), &request).await;
        assert_eq!(statuses(&named), [413], "{path}");
        let want = "\r\n\r\n413 Payload Too Large\nthe body is larger than 4 bytes\n";
        assert!(named.ends_with(want), "{path}: {named}");
        let unnamed = answer_of(RescueLayer::new(), &request).await;
        assert!(unnamed.ends_with("\r\n\r\n413 Payload Too Large\n"), "{path}: {unnamed}");
    }
}
