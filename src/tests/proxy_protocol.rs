//! The PROXY protocol in front of a server.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpStream,
    time::Instant,
};
use tower::service_fn;
use tracing::instrument::WithSubscriber;

use super::support::{exchange, read_all, read_until, start_with, statuses, within};
use crate::{
    Body, Request, Response,
    conn::{Config, Connection, ProxyProtocol, Transport, testing::Lines},
    net::{Drain, DrainWatch, Listener},
    peer::{Peer, ProxyAddresses},
    proto::proxy::{self, MAX_V1, MAX_V2, Version},
    upstream::{TcpBalance, TcpBalanceBuilder},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const LINE: &str = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n";

/// Answers with the client, its hop and the destination.
async fn tell(request: Request) -> Result<Response, Infallible> {
    let peer: &Peer = request.extensions().get().unwrap();
    let to = peer.proxy_addresses().map(|addresses| addresses.destination);
    let text = format!("{peer} by {:?} to {to:?} over {}\n", peer.remote_addr(), peer.scheme());
    Ok(Response::new(Body::from(text)))
}

fn senders() -> ProxyProtocol {
    ProxyProtocol::new().trust("10.0.0.0/8".parse().unwrap()).trust("127.0.0.0/8".parse().unwrap())
}

fn header(version: Version) -> Vec<u8> {
    let [client, destination] = ["192.0.2.1:1000", "192.0.2.2:443"].map(|a| a.parse().unwrap());
    let mut out = BytesMut::new();
    proxy::encode(version, Some(&ProxyAddresses { client, destination }), &mut out);
    out.to_vec()
}

/// A connection from the address `from` through a pipe of `size` bytes.
fn connection(
    from: &str,
    size: usize,
    config: Config,
) -> (DuplexStream, impl Future<Output = std::io::Result<()>>) {
    let peer = Peer::tcp(from.parse().unwrap(), "10.0.0.9:80".parse().unwrap());
    let (client, io) = duplex(size);
    let transport = Transport::new(io, peer, DrainWatch::never());
    let config = Arc::new(config.proxy_protocol(senders()));
    (client, Connection::new(transport, service_fn(tell), config))
}

/// Sends `bytes` from the address `from` and returns the answer and the log lines.
async fn talk(from: &str, size: usize, bytes: &[u8]) -> (String, Lines) {
    let (client, connection) = connection(from, size, Config::new());
    let (mut reader, mut writer) = tokio::io::split(client);
    let lines = Lines::default();
    // Each half is dropped when it has ended, so that the server sees the end of a refused connection.
    let send = async move {
        let _ = writer.write_all(bytes).await; // fails if the connection was refused before
    };
    let read = async move {
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let all = async { tokio::join!(connection, send, read) };
    let (ended, (), answer) = within(all.with_subscriber(lines.subscriber())).await;
    ended.unwrap();
    (answer, lines)
}

#[tokio::test]
async fn header_of_each_version_names_the_client_in_every_split() {
    for version in [Version::V1, Version::V2] {
        let bytes = [&header(version), GET.as_bytes(), LAST.as_bytes()].concat();
        // A pipe of n bytes splits at every n-th.
        for size in 1..=bytes.len() {
            let (answer, _) = talk("10.0.0.1:9", size, &bytes).await;
            assert_eq!(statuses(&answer), [200, 200], "{version:?}, {size}: {answer}");
            let told = "192.0.2.1:1000 by Some(10.0.0.1:9) to Some(192.0.2.2:443) over http\n";
            assert_eq!(answer.matches(told).count(), 2, "{answer}");
        }
    }
}

#[tokio::test]
async fn header_without_addresses_leaves_those_of_the_socket() {
    let local = [&b"\r\n\r\n\0\r\nQUIT\n\x20\0"[..], &[0, 0]].concat();
    let unspecified = [&b"\r\n\r\n\0\r\nQUIT\n\x21\0"[..], &[0, 4, 4, 0, 1, b'x']].concat();
    for header in [local, unspecified, b"PROXY UNKNOWN ignored\r\n".to_vec()] {
        let (answer, _) = talk("10.0.0.1:9", 99, &[&header, LAST.as_bytes()].concat()).await;
        assert!(answer.contains("10.0.0.1:9 by Some(10.0.0.1:9) to None"), "{answer}");
    }
    // A health check closes the connection after its header, or before: that is no fault.
    for header in [LINE.as_bytes(), b""] {
        let (mut client, connection) = connection("10.0.0.1:9", 99, Config::new());
        client.write_all(header).await.unwrap();
        drop(client);
        let lines = Lines::default();
        within(connection.with_subscriber(lines.subscriber())).await.unwrap();
        assert!(lines.of("vestibule::proxy_protocol").is_empty());
    }
}

#[tokio::test]
async fn g5_header_from_an_address_that_is_not_trusted_is_refused() {
    for version in [Version::V1, Version::V2] {
        let bytes = [&header(version), LAST.as_bytes()].concat();
        for size in [1, 7, 1000] {
            let (answer, lines) = talk("11.0.0.1:9", size, &bytes).await;
            assert_eq!(statuses(&answer), [400]);
            assert!(answer.contains("PROXY header") && !answer.contains("192.0.2.1"), "{answer}");
            let lines = lines.of("vestibule::proxy_protocol");
            let [line] = &lines[..] else { panic!("{lines:?}") };
            assert!(line.contains("DEBUG") && line.contains("client=11.0.0.1:9"), "{line}");
            assert!(line.contains("not trusted"), "{line}");
        }
    }
    for size in [1, 1000] {
        let (answer, lines) = talk("11.0.0.1:9", size, LAST.as_bytes()).await;
        assert!(answer.contains("11.0.0.1:9 by Some(11.0.0.1:9) to None"), "{answer}");
        assert!(lines.of("vestibule::proxy_protocol").is_empty());
    }
}

#[tokio::test]
async fn g5_trusted_sender_must_send_one_valid_header_and_no_second() {
    for (bytes, error) in [
        (LAST, "not a PROXY header"),
        ("PROXY TCP4 192.0.2.1 not-an-ip 1 2\r\n", "malformed PROXY line"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 100000\r\n", "malformed PROXY line"),
        ("\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c", "unknown command or family"),
    ] {
        for size in [1, 1000] {
            let (answer, lines) = talk("10.0.0.1:9", size, bytes.as_bytes()).await;
            assert_eq!(statuses(&answer), [400], "{bytes}");
            let lines = lines.of("vestibule::proxy_protocol");
            let [line] = &lines[..] else { panic!("{lines:?}") };
            assert!(line.contains("WARN") && line.contains("client=10.0.0.1:9"), "{line}");
            assert!(line.contains(error), "{line}");
        }
    }
    // The second one is a malformed request of the client that the first one names.
    for second in [
        "PROXY TCP4 203.0.113.9 192.0.2.2 1 2\r\n".to_owned(),
        format!("{GET}PROXY TCP4 203.0.113.9 192.0.2.2 1 2\r\n"),
    ] {
        let (answer, _) = talk("10.0.0.1:9", 1000, [LINE, &second, LAST].concat().as_bytes()).await;
        assert_eq!(statuses(&answer).last(), Some(&400), "{answer}");
        assert!(!answer.contains("203.0.113.9"), "{answer}");
    }
}

#[tokio::test]
async fn header_is_read_up_to_its_bound() {
    let line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16)).into_bytes();
    let v2 = |len: usize| {
        let content = u16::try_from(len - 16).unwrap().to_be_bytes();
        let tlv = u16::try_from(len - 19).unwrap().to_be_bytes();
        let head = [b"\r\n\r\n\0\r\nQUIT\n\x21\0", &content[..], &[4], &tlv[..]].concat();
        [head, vec![b'x'; len - 19]].concat()
    };
    for (header, status) in
        [(line(MAX_V1), 200), (line(MAX_V1 + 1), 400), (v2(MAX_V2), 200), (v2(MAX_V2 + 1), 400)]
    {
        for size in [1, 1000, 10_000] {
            let bytes = [&header, LAST.as_bytes()].concat();
            let (answer, _) = talk("10.0.0.1:9", size, &bytes).await;
            assert_eq!(statuses(&answer), [status], "{} bytes", header.len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn header_and_first_head_share_one_deadline() {
    let (head, began) = (Config::new().limits.head_timeout, Instant::now());
    // Nothing, half a header, and a header late with half a head.
    for (first, second) in [("", ""), ("PROXY TCP4 ", ""), (LINE, "GET / HT")] {
        let began = Instant::now();
        let (mut client, connection) = connection("10.0.0.1:9", 1000, Config::new());
        let talk = async {
            client.write_all(first.as_bytes()).await.unwrap();
            tokio::time::sleep(head - Duration::from_secs(1)).await;
            client.write_all(second.as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            let after = began.elapsed();
            assert!(after >= head && after < head + Duration::from_millis(10), "{after:?}");
            answer
        };
        let (ended, answer) = tokio::join!(connection, talk);
        ended.unwrap();
        let timed_out = if second.is_empty() { vec![] } else { vec![408] };
        assert_eq!(statuses(&answer), timed_out, "{first}{second}");
    }
    assert!(began.elapsed() < 4 * head);
}

#[tokio::test]
async fn shutdown_ends_a_connection_in_its_header() {
    let server = start_with(service_fn(tell), |s| {
        s.proxy_protocol(senders()).shutdown_timeout(Duration::MAX)
    })
    .await;
    let mut half = TcpStream::connect(server.addr).await.unwrap();
    half.write_all(b"PROXY TCP4 ").await.unwrap();
    // The other one is accepted before this one, which is served.
    let answer = exchange(server.addr, [LINE, LAST].concat()).await;
    assert_eq!(statuses(&answer), [200]);
    server.stop().await;
    assert_eq!(read_all(&mut half).await, "");
}

#[tokio::test]
async fn tcp_balancer_sends_the_client_address_to_the_server() {
    for version in [Version::V1, Version::V2] {
        let logged = Arc::new(Mutex::new(Vec::new()));
        let log = logged.clone();
        let server = start_with(service_fn(tell), |s| {
            let s = s.proxy_protocol(senders());
            s.access_log(move |entry| log.lock().unwrap().push(entry.peer.to_string()))
        })
        .await;
        let balance = TcpBalance::builder([server.addr.to_string()]).proxy_protocol(version);
        let balance = balance.build().unwrap();
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), false).unwrap();
        let front: SocketAddr = listener.local_addr().unwrap().to_string().parse().unwrap();
        let drain = Drain::new();
        let watched = drain.clone();
        let serving = tokio::spawn(async move { balance.serve(listener, &watched).await });
        let mut client = TcpStream::connect(front).await.unwrap();
        let own = client.local_addr().unwrap();
        client.write_all([GET, LAST].concat().as_bytes()).await.unwrap();
        let answer = read_all(&mut client).await;
        assert_eq!(statuses(&answer), [200, 200]);
        assert_eq!(answer.matches(&format!("{own} by ")).count(), 2, "{answer}");
        assert!(answer.contains(&format!("to Some({front})")), "{answer}");
        drop(client);
        drain.begin();
        within(serving).await.unwrap().unwrap();
        server.stop().await;
        assert_eq!(*logged.lock().unwrap(), [own.to_string(), own.to_string()]);
    }
}

/// Serves with a balancer of connections on a free port.
fn balance(builder: TcpBalanceBuilder, drain: &Drain) -> (SocketAddr, TcpBalance) {
    let balance = builder.build().unwrap();
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), false).unwrap();
    let front = listener.local_addr().unwrap().to_string().parse().unwrap();
    let (serving, drain) = (balance.clone(), drain.clone());
    tokio::spawn(async move { serving.serve(listener, &drain).await });
    (front, balance)
}

#[tokio::test]
async fn tcp_balance_passes_on_the_client_that_a_trusted_sender_names() {
    let drain = Drain::new();
    let server = start_with(service_fn(tell), |s| s.proxy_protocol(senders())).await;
    for (first, second) in [(Version::V1, Version::V2), (Version::V2, Version::V1)] {
        let inner = TcpBalance::builder([server.addr.to_string()]);
        let inner = inner.read_proxy_protocol(senders()).proxy_protocol(second);
        let (inner, figures) = balance(inner, &drain);
        let outer = TcpBalance::builder([inner.to_string()]).proxy_protocol(first);
        let (front, _) = balance(outer, &drain);
        let mut client = TcpStream::connect(front).await.unwrap();
        let own = client.local_addr().unwrap();
        client.write_all([GET, LAST].concat().as_bytes()).await.unwrap();
        let answer = read_all(&mut client).await;
        assert_eq!(answer.matches(&format!("{own} by ")).count(), 2, "{answer}");
        assert!(answer.contains(&format!("to Some({front})")), "{answer}");

        // A trusted sender must send a header, and a whole one.
        for bytes in [GET, &LINE[..9]] {
            let mut client = TcpStream::connect(inner).await.unwrap();
            client.write_all(bytes.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(read_all(&mut client).await, "");
        }
        assert_eq!(figures.stats().failed, 2);
    }
    drain.begin();
    server.stop().await;
}

#[tokio::test]
async fn tcp_balance_forwards_what_others_send_as_it_is() {
    let drain = Drain::new();
    let server = start_with(service_fn(tell), |s| s.proxy_protocol(senders())).await;
    let builder = TcpBalance::builder([server.addr.to_string()]);
    let (front, _) = balance(builder.read_proxy_protocol(ProxyProtocol::new()), &drain);
    let answer = exchange(front, [LINE, LAST].concat()).await;
    assert!(answer.contains("192.0.2.1:1000 by "), "{answer}");
    drain.begin();
    server.stop().await;
}

#[tokio::test]
async fn connections_per_client_count_the_client_of_the_header() {
    let server =
        start_with(service_fn(tell), |s| s.proxy_protocol(senders()).connections_per_client(1))
            .await;
    let from = |n: u8| format!("PROXY TCP4 192.0.2.{n} 192.0.2.99 1 2\r\n{GET}");
    let mut first = TcpStream::connect(server.addr).await.unwrap();
    first.write_all(from(1).as_bytes()).await.unwrap();
    read_until(&mut first, "over http\n").await;
    assert_eq!(exchange(server.addr, from(1)).await, "", "it is closed without a response");
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    second.write_all(from(2).as_bytes()).await.unwrap();
    read_until(&mut second, "over http\n").await;
    // The connection is not counted after its end.
    drop(first);
    within(async {
        let again = [from(1).trim_end_matches(GET), LAST].concat();
        while statuses(&exchange(server.addr, &again).await) != [200] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(second);
    server.stop().await;
}

#[cfg(feature = "tls")]
mod tls {
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::net::tls::{
        Server,
        testing::{Authority, name},
    };

    fn certificate() -> (TlsConnector, Server) {
        let ca = Authority::new();
        let (chain, key) = ca.issue("a", &["a.example"]);
        (ca.client(&["http/1.1"]), Server::pem_files(chain, key).unwrap())
    }

    #[tokio::test]
    async fn header_may_come_in_one_read_with_the_handshake() {
        for version in [Version::V1, Version::V2] {
            let (connector, tls) = certificate();
            let config = Config::new().tls(tls);
            let (mut client, connection) = connection("10.0.0.1:9", 1 << 16, config);
            // It runs when the client waits for the first time, for the answer to its ClientHello.
            let connection = tokio::spawn(connection);
            let talk = async {
                client.write_all(&header(version)).await.unwrap();
                let mut stream = connector.connect(name("a.example"), client).await.unwrap();
                stream.write_all(LAST.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let answer = within(talk).await;
            assert!(answer.contains("192.0.2.1:1000 by Some(10.0.0.1:9)"), "{answer}");
            assert!(answer.contains("over https"), "{answer}");
            within(connection).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn header_may_come_long_before_the_handshake() {
        let (connector, tls) = certificate();
        let server = start_with(service_fn(tell), |s| s.tls(tls).proxy_protocol(senders())).await;
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        client.write_all(LINE.as_bytes()).await.unwrap();
        // The connection is served, since its header was read before.
        let mut other = TcpStream::connect(server.addr).await.unwrap();
        other.write_all(LINE.as_bytes()).await.unwrap();
        let mut other = within(connector.connect(name("a.example"), other)).await.unwrap();
        other.write_all(LAST.as_bytes()).await.unwrap();
        within(other.read_to_end(&mut Vec::new())).await.unwrap();
        let mut stream = within(connector.connect(name("a.example"), client)).await.unwrap();
        stream.write_all(LAST.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.contains("192.0.2.1:1000 by "), "{answer}");
        server.stop().await;
    }

    #[tokio::test]
    async fn refused_header_before_tls_is_closed_without_plain_text() {
        let (_, tls) = certificate();
        let service = service_fn(tell);
        for (from, bytes) in
            [("11.0.0.1:9", LINE.as_bytes()), ("10.0.0.1:9", b"\x16\x03\x01\0\x05hello")]
        {
            let peer = Peer::tcp(from.parse().unwrap(), "10.0.0.9:80".parse().unwrap());
            let (mut client, io) = duplex(1000);
            let config = Config::new().tls(tls.clone()).proxy_protocol(senders());
            let transport = Transport::new(io, peer, DrainWatch::never());
            let connection = Connection::new(transport, service, Arc::new(config));
            let talk = async {
                client.write_all(bytes).await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                drop(client);
                answer
            };
            let lines = Lines::default();
            let both = async { tokio::join!(connection, talk) };
            let (ended, answer) = within(both.with_subscriber(lines.subscriber())).await;
            ended.unwrap();
            assert!(answer.is_empty(), "{answer:?}");
            assert_eq!(lines.of("vestibule::proxy_protocol").len(), 1);
        }
    }
}
