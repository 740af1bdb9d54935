//! Bad input on ports with and without TLS: each has a line in the log and a clean end.

use std::sync::Arc;

use tokio::io::{DuplexStream, duplex};
use tokio_rustls::{TlsConnector, rustls::ClientConnection};
use tracing::instrument::WithSubscriber;

use super::*;
use crate::{
    BoxError,
    conn::{Config, Connection, Transport, testing::Lines},
    net::{DrainWatch, tls::UnknownName},
};

/// Reads the whole body of a request and answers with its length.
async fn take(request: Request) -> Result<Response, BoxError> {
    use http_body_util::BodyExt;
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Body::from(body.len().to_string())))
}

/// Serves one connection to `talk`, and returns what that returns and the log lines.
async fn served<T>(config: Config, talk: impl AsyncFnOnce(DuplexStream) -> T) -> (T, Lines) {
    let (client, io) = duplex(1 << 16);
    let peer = Peer::tcp("192.0.2.1:9".parse().unwrap(), "192.0.2.2:443".parse().unwrap());
    let transport = Transport::new(io, peer, DrainWatch::never());
    let connection = Connection::new(transport, service_fn(take), Arc::new(config));
    let lines = Lines::default();
    let both = async { tokio::join!(connection, talk(client)) };
    let (ended, told) = within(both.with_subscriber(lines.subscriber())).await;
    ended.unwrap();
    (told, lines)
}

/// Asserts that the one line of `target` names the client and this.
fn assert_line(lines: &Lines, target: &str, text: &str) {
    let lines = lines.of(target);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.contains("client=192.0.2.1:9") && line.contains(text), "{line}");
}

async fn read_to_end(stream: &mut DuplexStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

fn server(ca: &Authority) -> Server {
    let (chain, key) = ca.issue("a", &["a.example"]);
    Server::pem_files(chain, key).unwrap()
}

/// The record of a client's first flight.
fn client_hello(client: &mut ClientConnection) -> Vec<u8> {
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Divides a handshake record into records of `len` bytes.
fn fragments(record: &[u8], len: usize) -> Vec<u8> {
    let (head, content) = record.split_at(5);
    let fragment = |piece: &[u8]| {
        let len = u16::try_from(piece.len()).unwrap().to_be_bytes();
        [&head[..3], &len, piece].concat()
    };
    content.chunks(len).flat_map(fragment).collect()
}

#[tokio::test]
async fn r2_client_hello_in_fragments_is_read_and_half_of_it_is_logged() {
    let ca = Authority::new();
    let tls = server(&ca);
    for len in [1, 2, 3, 4, 5, 99, 200] {
        // Whole: the handshake goes on, and a request is served.
        let (answer, lines) = served(Config::new().tls(tls.clone()), async |mut io| {
            let config = ca.client(&["http/1.1"]).config().clone();
            let mut client = ClientConnection::new(config, name("a.example")).unwrap();
            let hello = client_hello(&mut client);
            io.write_all(&fragments(&hello, len)).await.unwrap();
            io.flush().await.unwrap();
            talk_on(client, io).await
        })
        .await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n0"), "{answer}");
        assert!(lines.of("vestibule::tls").is_empty());
        // Half of it.
        let (answer, lines) = served(Config::new().tls(tls.clone()), async |mut io| {
            let config = ca.client(&[]).config().clone();
            let mut client = ClientConnection::new(config, name("a.example")).unwrap();
            let all = fragments(&client_hello(&mut client), len);
            io.write_all(&all[..all.len() / 2]).await.unwrap();
            io.shutdown().await.unwrap();
            read_to_end(&mut io).await
        })
        .await;
        assert!(answer.is_empty(), "{answer:?}");
        assert_line(&lines, "vestibule::tls", "the client closed the connection during the TLS");
    }
}

/// Completes the handshake of a client that has sent its first flight, and sends a request.
async fn talk_on(mut client: ClientConnection, mut io: DuplexStream) -> String {
    use std::io::{Read, Write};
    let request = get("/", "a.example");
    client.writer().write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    loop {
        let mut out = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut out).unwrap();
        }
        io.write_all(&out).await.unwrap();
        let mut bytes = [0; 4096];
        let n = io.read(&mut bytes).await.unwrap();
        let mut read = &bytes[..n];
        while !read.is_empty() {
            client.read_tls(&mut read).unwrap();
            client.process_new_packets().unwrap();
        }
        let mut piece = [0; 4096];
        loop {
            match client.reader().read(&mut piece) {
                Ok(0) => return String::from_utf8(answer).unwrap(), // close_notify
                Ok(n) => answer.extend_from_slice(&piece[..n]),
                Err(_) => break, // more is to be read
            }
        }
        assert!(n > 0, "closed without close_notify");
    }
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_logged() {
    let ca = Authority::new();
    let (answer, lines) = served(Config::new().tls(server(&ca)), async |mut io| {
        io.write_all(get("/", "a").as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
        String::from_utf8(read_to_end(&mut io).await).unwrap()
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("use https"), "{answer}");
    assert_line(&lines, "vestibule::tls", "the client sent plain HTTP to a TLS port");
}

#[tokio::test]
async fn tls_on_a_plain_port_is_logged() {
    let ca = Authority::new();
    let (error, lines) = served(Config::new(), async |io| {
        ca.client(&[]).connect(name("a.example"), io).await.unwrap_err().to_string()
    })
    .await;
    assert!(error.contains("corrupt message"), "{error}");
    let lines = lines.of("vestibule::request").concat();
    assert!(lines.contains("the client speaks TLS, and this port does not"), "{lines}");
    assert!(lines.contains("client=192.0.2.1:9"), "{lines}");
}

#[tokio::test]
async fn refused_handshake_is_logged_with_its_cause_and_ends_by_an_alert() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let host = || Host::pem_files(&chain, &key);
    let expired = ca.issue_until("expired", &["client"], 2001);
    let stranger = Authority::new();
    let of_stranger = stranger.issue("stranger", &["client"]);
    let demanding = || Server::builder().host(host().require_client_certificate(ca.file()));
    let alerting = Server::builder().host(host()).unknown_name(UnknownName::Alert);
    type Case = (&'static str, Server, TlsConnector, &'static str, &'static str, &'static str);
    let cases: [Case; 6] = [
        (
            "ALPN",
            server(&ca),
            ca.client(&["smtp"]),
            "a.example",
            "protocol",
            "NoApplicationProtocol",
        ),
        (
            "an unknown name",
            alerting.build().unwrap(),
            ca.client(&[]),
            "b.example",
            "the client requested the unknown host \"b.example\"",
            "Unrecogni",
        ),
        (
            "the default certificate, which the client refuses",
            Server::builder().host(host()).build().unwrap(),
            ca.client(&[]),
            "b.example",
            "BadCertificate",
            "not valid for name",
        ),
        (
            "an expired certificate",
            demanding().build().unwrap(),
            ca.client_with(&[], Some(&expired)),
            "a.example",
            "expired",
            "CertificateExpired",
        ),
        (
            "no certificate",
            demanding().build().unwrap(),
            ca.client(&[]),
            "a.example",
            "sent no certificates",
            "CertificateRequired",
        ),
        (
            "a certificate of another authority",
            demanding().build().unwrap(),
            ca.client_with(&[], Some(&of_stranger)),
            "a.example",
            "BadSignature",
            "DecryptError",
        ),
    ];
    for (what, tls, client, host, logged, told) in cases {
        let (error, lines) = served(Config::new().tls(tls), async |io| {
            let connected = client.connect(name(host), io).await;
            // In TLS 1.3 the client learns of its own certificate by its first read.
            let error = match connected {
                Err(error) => error,
                Ok(mut stream) => stream.read_u8().await.unwrap_err(),
            };
            error.to_string()
        })
        .await;
        assert!(error.contains(told), "{what}: {error}");
        assert_line(&lines, "vestibule::tls", logged);
    }
}

#[tokio::test]
async fn alert_for_an_expired_certificate_arrives_over_tcp() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let host = Host::pem_files(&chain, &key).require_client_certificate(ca.file());
    let server = facts(Server::builder().host(host).build().unwrap()).await;
    let expired = ca.issue_until("expired", &["client"], 2001);
    for sends_request in [false, true] {
        let client = ca.client_with(&["http/1.1"], Some(&expired));
        let socket = TcpStream::connect(server.addr).await.unwrap();
        let mut stream = within(client.connect(name("a.example"), socket)).await.unwrap();
        if sends_request {
            // Bytes that the server does not read must not reset the connection before the alert is read.
            stream.write_all(get("/", "a.example").as_bytes()).await.unwrap();
        }
        let error = within(stream.read_u8()).await.unwrap_err().to_string();
        assert!(error.contains("CertificateExpired"), "{error}");
    }
    server.stop().await;
}

#[tokio::test]
async fn truncated_stream_is_an_error_in_a_body_and_the_end_when_idle() {
    let ca = Authority::new();
    let tls = server(&ca);
    // Without close_notify, as by an attacker who cuts the connection (RFC 8446 section 6.1).
    let cut = async |io: DuplexStream, request: &str| {
        let mut stream = ca.client(&["http/1.1"]).connect(name("a.example"), io).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let (mut io, _) = stream.into_inner();
        io.shutdown().await.unwrap();
        read_to_end(&mut io).await
    };
    let whole = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    for request in ["", whole, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"] {
        let (client, io) = duplex(1 << 16);
        let peer = Peer::tcp("192.0.2.1:9".parse().unwrap(), "192.0.2.2:443".parse().unwrap());
        let transport = Transport::new(io, peer, DrainWatch::never());
        let config = Arc::new(Config::new().tls(tls.clone()));
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        let service = service_fn(move |request: Request| {
            let tx = tx.clone();
            async move {
                let result = take(request).await;
                tx.send(result.is_ok()).unwrap();
                result
            }
        });
        let connection = Connection::new(transport, service, config);
        let both = async { tokio::join!(connection, cut(client, request)) };
        let (ended, _) = within(both).await;
        let served = rx.recv().await;
        match request {
            "" => assert_eq!((ended.is_ok(), served), (true, None), "{ended:?}"),
            _ if request == whole => assert_eq!(served, Some(true)),
            _ => assert_ne!(served, Some(true), "a part of a body is no body"),
        }
    }
}

#[cfg(feature = "h2")]
#[tokio::test]
async fn incomplete_preface_over_tls_ends_the_connection_in_order() {
    let ca = Authority::new();
    let tls = server(&ca);
    let preface = crate::proto::h2::PREFACE;
    for (len, wrong) in
        [(0, &b""[..]), (1, b""), (preface.len() - 1, b""), (4, b"GET / HTTP/1.1\r\n\r\n")]
    {
        let (client, io) = duplex(1 << 16);
        let peer = Peer::tcp("192.0.2.1:9".parse().unwrap(), "192.0.2.2:443".parse().unwrap());
        let transport = Transport::new(io, peer, DrainWatch::never());
        let config = Arc::new(Config::new().tls(tls.clone()));
        let connection = Connection::new(transport, service_fn(take), config);
        let talk = async {
            let mut stream = ca.client(&["h2"]).connect(name("a.example"), client).await.unwrap();
            stream.write_all(&[&preface[..len], wrong].concat()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut all = Vec::new();
            // The end is one of TLS, and no cut.
            stream.read_to_end(&mut all).await.unwrap();
        };
        // The server logs the error of a connection.
        let (ended, ()) = within(async { tokio::join!(connection, talk) }).await;
        let error = ended.unwrap_err().to_string();
        let expected =
            if wrong.is_empty() { "closed before reading preface" } else { "protocol error" };
        assert!(error.contains(expected), "{len} bytes: {error}");
    }
}
