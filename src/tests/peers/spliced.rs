//! Bodies that move between sockets in the kernel, from and to nginx on TCP and on a Unix socket, with and without
//! layers between that read them.

use std::{fs, io::Read, path::Path};

use flate2::read::GzDecoder;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tower::ServiceBuilder;
use tower_http::trace::TraceLayer;

use super::{
    nginx::{Nginx, directory, free_address},
    noise,
};
use crate::{
    Body, HttpService,
    conn::access_log::Entry,
    layer::CompressionLayer,
    tests::support::{Running, read_until, reset, start_with, statuses, within},
    upstream::Upstream,
};

/// The directives of all servers: the rate of a response, and uploads.
const NGINX: &str = "map $arg_rate $rate { default 0; ~. $arg_rate; } limit_rate $rate; \
                     dav_methods PUT; client_max_body_size 100m;";

/// The length of the large file.
const LEN: usize = 8 << 20;

/// A front whose access log is read.
struct Front(Running, mpsc::UnboundedReceiver<Entry>);

impl Front {
    async fn start<S>(service: S) -> Self
    where
        S: HttpService<Body, Future: Send> + Clone + Send + 'static,
    {
        let (entries, log) = mpsc::unbounded_channel();
        let write = move |entry: &Entry| entries.send(entry.clone()).unwrap_or_default();
        Self(start_with(service, |server| server.access_log(write)).await, log)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.0.addr).await.unwrap()
    }

    /// Returns the bytes and the completeness of the next response in the log.
    async fn logged(&mut self) -> (u64, bool) {
        let entry = within(self.1.recv()).await.unwrap();
        (entry.bytes, entry.complete)
    }
}

/// Starts fronts of one server with different layers: none, one of another crate that hands on the bodies of responses
/// in its own type, and one that changes them.
async fn fronts(server: &str) -> [Front; 3] {
    let servers = Upstream::new([server]).unwrap();
    let traced = ServiceBuilder::new().layer(TraceLayer::new_for_http()).service(servers.clone());
    let encoded = ServiceBuilder::new().layer(CompressionLayer::new()).service(servers.clone());
    [Front::start(servers).await, Front::start(traced).await, Front::start(encoded).await]
}

/// Returns the addresses of a server.
fn addresses(nginx: &Nginx, dir: &Path) -> [String; 2] {
    [nginx.addr.to_string(), format!("unix:{}/sock", dir.display())]
}

async fn send(client: &mut TcpStream, path: &str, fields: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let head = read_until(client, "\r\n\r\n").await.to_lowercase();
    assert_eq!(statuses(&head.to_uppercase()), [200], "{head}");
    head
}

/// Reads a response of the large file slowly.
async fn read_slowly(client: &mut TcpStream) -> Vec<u8> {
    let mut body = vec![0; LEN];
    for piece in body.chunks_mut(100_000) {
        within(client.read_exact(piece)).await.unwrap();
        tokio::task::yield_now().await;
    }
    body
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn responses_of_nginx_arrive_whole_and_are_logged_whatever_is_between() {
    let dir = directory();
    let text = noise(LEN as u32);
    fs::write(dir.path().join("root/large"), &text).unwrap();
    let nginx = Nginx::start(dir.path(), free_address().await, NGINX).await;
    for server in addresses(&nginx, dir.path()) {
        for (n, mut front) in fronts(&server).await.into_iter().enumerate() {
            let mut client = front.connect().await;
            for _ in 0..2 {
                let head = send(&mut client, "/large", "").await;
                assert!(head.contains("content-length: 8388608\r\n"), "{head}");
                assert!(read_slowly(&mut client).await == text, "{server} {n}");
                assert_eq!(front.logged().await, (LEN as u64, true), "{server} {n}");
            }
            let fields = "Accept-Encoding: gzip\r\nConnection: close\r\n";
            let head = send(&mut client, "/large", fields).await;
            let mut body = Vec::new();
            within(client.read_to_end(&mut body)).await.unwrap();
            let is_encoded = head.contains("content-encoding: gzip\r\n");
            assert_eq!(is_encoded, n == 2, "{head}");
            let (bytes, is_complete) = front.logged().await;
            if is_encoded {
                body = dechunked(&body);
                assert_eq!(bytes, body.len() as u64);
                let mut decoded = Vec::new();
                GzDecoder::new(&*body).read_to_end(&mut decoded).unwrap();
                body = decoded;
            }
            assert!(is_complete && body == text, "{server} {n}");
            front.0.stop().await;
        }
    }
    nginx.stop().await;
}

/// Returns the content of a chunked body.
fn dechunked(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let line = body.iter().position(|&byte| byte == b'\r').unwrap();
        let len = usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        content.extend_from_slice(&body[line + 2..][..len]);
        body = &body[line + 2 + len + 2..];
        if len == 0 {
            return content;
        }
    }
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn response_that_nginx_or_the_client_breaks_off_is_logged_as_incomplete() {
    let dir = directory();
    let file = fs::read(dir.path().join("root/1m.bin")).unwrap();
    let mut nginx = Nginx::start(dir.path(), free_address().await, NGINX).await;
    for server in addresses(&nginx, dir.path()) {
        for (n, mut front) in fronts(&server).await.into_iter().enumerate() {
            for server_dies in [false, true] {
                let mut client = front.connect().await;
                // It takes a quarter of a minute.
                send(&mut client, "/1m.bin?rate=65536", "").await;
                let mut body = vec![0; 50_000];
                within(client.read_exact(&mut body)).await.unwrap();
                if server_dies {
                    let addr = nginx.addr;
                    nginx.stop().await; // with SIGKILL
                    let _ = within(client.read_to_end(&mut body)).await;
                    let _ = fs::remove_file(dir.path().join("pid"));
                    nginx = Nginx::start(dir.path(), addr, NGINX).await;
                } else {
                    reset(client);
                }
                assert!(body.len() < 1 << 20 && file.starts_with(&body), "{server} {n}");
                let (bytes, is_complete) = front.logged().await;
                assert!(!is_complete && (50_000..1 << 20).contains(&bytes), "{bytes}");
            }
            let mut client = front.connect().await;
            send(&mut client, "/abc.txt", "Connection: close\r\n").await;
            let mut body = Vec::new();
            within(client.read_to_end(&mut body)).await.unwrap();
            assert_eq!(body, b"abcdefghij");
            front.0.stop().await;
        }
    }
    nginx.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn uploads_reach_nginx_whole_whatever_is_between() {
    let dir = directory();
    let nginx = Nginx::start(dir.path(), free_address().await, NGINX).await;
    for server in addresses(&nginx, dir.path()) {
        for (n, front) in fronts(&server).await.into_iter().enumerate() {
            let mut client = front.connect().await;
            for (turn, len) in [65_536, 65_536, 5_000_000, 10, 300_000].into_iter().enumerate() {
                let content = noise(len);
                let head =
                    format!("PUT /u{n}{turn} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
                client.write_all(head.as_bytes()).await.unwrap();
                for piece in content.chunks(70_000) {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                let head = read_until(&mut client, "\r\n\r\n").await;
                assert!(matches!(statuses(&head)[..], [201 | 204]), "{head}");
                let stored = fs::read(dir.path().join(format!("root/u{n}{turn}"))).unwrap();
                assert!(stored == content, "{server} {n}: {len} bytes");
            }
            drop(client);
            front.0.stop().await;
        }
    }
    nginx.stop().await;
}
