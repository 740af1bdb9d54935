//! Tests with nginx as the server behind the proxy.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream, UnixStream},
    process::Child,
};

use tower::service_fn;

use super::{listening, machines::Machine, noise, program};
use crate::{
    Body, BoxError, Request, Response,
    conn::ProxyProtocol,
    net::{Drain, Listener},
    peer::Peer,
    proto::proxy,
    tests::support::{exchange, read_all, start, start_with, statuses, within},
    upstream::{TcpBalance, Upstream},
};

/// A running nginx in its own directory, on a port and on a Unix socket.
pub(super) struct Nginx {
    child: Child,
    pub(super) addr: SocketAddr,
}

impl Nginx {
    pub(super) async fn start(dir: &Path, addr: SocketAddr, extra: &str) -> Self {
        Self::start_on(&Machine::here(), dir, addr, extra).await
    }

    pub(super) async fn start_on(
        machine: &Machine,
        dir: &Path,
        addr: SocketAddr,
        extra: &str,
    ) -> Self {
        let at = dir.display();
        let conf = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr;\n\
             events {{ worker_connections 64; }}\n\
             http {{\n\
               access_log off; {extra}\n\
               client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
               uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
               server {{\n\
                 listen {addr}; listen unix:{at}/sock; root {at}/root;\n\
                 add_header X-Requests $connection_requests always;\n\
                 add_header X-Number $arg_n always;\n\
                 location = /hello {{ return 200 \"hello $http_x_forwarded_for\"; }}\n\
               }}\n\
             }}\n"
        );
        fs::write(dir.join("conf"), conf).unwrap();
        // nginx cannot bind the socket file of a killed instance.
        let _ = fs::remove_file(dir.join("sock"));
        let mut command = machine.command("nginx");
        command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(dir.join("conf"));
        let mut child = command.spawn().expect("nginx is installed");
        let socket = dir.join("sock");
        // The last one that it opens. The other may not be reachable from here.
        listening(&mut child, async || UnixStream::connect(&socket).await.is_ok()).await;
        Self { child, addr }
    }

    pub(super) async fn stop(mut self) {
        self.child.start_kill().unwrap();
        within(self.child.wait()).await.unwrap();
    }
}

pub(super) fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("1m.bin"), noise(1 << 20)).unwrap();
    fs::write(root.join("abc.txt"), "abcdefghij").unwrap();
    dir
}

/// Returns an address that stays free until it is used: no other test listens on it or connects from it.
pub(super) async fn free_address() -> SocketAddr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    TcpListener::bind((Ipv4Addr::new(127, 77, 0, n), 0)).await.unwrap().local_addr().unwrap()
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n")
}

/// Runs nginx with this configuration until it listens on `addr`.
async fn run(dir: &Path, conf: &str, addr: SocketAddr) -> Child {
    let at = dir.display();
    let conf = [conf, "daemon off; master_process off; pid {at}/pid; error_log stderr; events { }"];
    fs::write(dir.join("conf"), conf.concat().replace("{at}", &at.to_string())).unwrap();
    let mut command = program("nginx");
    command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(dir.join("conf"));
    let mut child = command.spawn().expect("nginx is installed");
    listening(&mut child, async || TcpStream::connect(addr).await.is_ok()).await;
    child
}

#[tokio::test]
#[cfg_attr(not(peer_nginx_stream), ignore = "apt-get install libnginx-mod-stream")]
async fn nginx_names_its_client_by_the_proxy_protocol() {
    let tell = service_fn(async |request: Request| {
        let peer: &Peer = request.extensions().get().unwrap();
        let to = peer.proxy_addresses().map(|addresses| addresses.destination);
        Ok::<_, BoxError>(Response::new(Body::from(format!("{peer} to {to:?}\n"))))
    });
    let senders = ProxyProtocol::new().trust("127.0.0.0/8".parse().unwrap());
    let server = start_with(tell, |s| s.proxy_protocol(senders)).await;
    let (dir, addr) = (tempfile::tempdir().unwrap(), free_address().await);
    let conf = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         stream {{ server {{ listen {addr}; proxy_pass {}; proxy_protocol on; }} }}\n",
        server.addr
    );
    let mut nginx = run(dir.path(), &conf, addr).await;
    let mut client = TcpStream::connect(addr).await.unwrap();
    let own = client.local_addr().unwrap();
    let requests = [get("/", ""), get("/", "Connection: close\r\n")].concat();
    client.write_all(requests.as_bytes()).await.unwrap();
    let answer = read_all(&mut client).await;
    assert_eq!(statuses(&answer), [200, 200], "{answer}");
    assert_eq!(answer.matches(&format!("{own} to Some({addr})\n")).count(), 2, "{answer}");
    nginx.start_kill().unwrap();
    within(nginx.wait()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn nginx_reads_the_header_that_a_tcp_balancer_sends() {
    for version in [proxy::Version::V1, proxy::Version::V2] {
        let (dir, addr) = (tempfile::tempdir().unwrap(), free_address().await);
        let conf = format!(
            "http {{ access_log off;\n\
               client_body_temp_path {{at}}/b; proxy_temp_path {{at}}/p; fastcgi_temp_path {{at}}/f;\n\
               uwsgi_temp_path {{at}}/u; scgi_temp_path {{at}}/s;\n\
               server {{ listen {addr} proxy_protocol;\n\
                 location / {{ return 200 \"$proxy_protocol_addr:$proxy_protocol_port\"; }} }} }}"
        );
        let mut nginx = run(dir.path(), &conf, addr).await;
        let balance = TcpBalance::builder([addr.to_string()]).proxy_protocol(version);
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), false).unwrap();
        let front = listener.local_addr().unwrap().to_string();
        let (balance, drain) = (balance.build().unwrap(), Drain::new());
        let watched = drain.clone();
        let serving = tokio::spawn(async move { balance.serve(listener, &watched).await });
        let mut client = TcpStream::connect(front).await.unwrap();
        let own = client.local_addr().unwrap();
        client.write_all(get("/", "Connection: close\r\n").as_bytes()).await.unwrap();
        let answer = read_all(&mut client).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{own}")), "{answer}");
        drain.begin();
        within(serving).await.unwrap().unwrap();
        nginx.start_kill().unwrap();
        within(nginx.wait()).await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn nginx_proxies_to_port_and_socket_over_idle_connections() {
    let dir = directory();
    let nginx = Nginx::start(dir.path(), free_address().await, "if_modified_since before;").await;
    let socket = format!("unix:{}", dir.path().join("sock").display());
    for server in [nginx.addr.to_string(), socket] {
        let front = start(Upstream::new([server]).unwrap()).await;
        let requests = [
            get("/hello", ""),
            get("/abc.txt", "Range: bytes=2-4\r\n"),
            get("/abc.txt", "").replace("GET", "HEAD"),
            get("/abc.txt", "If-Modified-Since: Fri, 31 Dec 2100 00:00:00 GMT\r\n"),
            get("/nope", ""),
            get("/1m.bin", "Connection: close\r\n"),
        ];
        let answer = exchange(front.addr, requests.concat()).await;
        let (heads, last) = answer.split_at(answer.rfind("HTTP/1.1 200 OK").unwrap());
        assert_eq!(statuses(heads), [200, 206, 200, 304, 404], "{heads}");
        assert!(heads.contains("hello 127.0.0.1") && heads.contains("\r\n\r\ncde"));
        assert_eq!(heads.matches("content-length: 10\r\n").count(), 1, "that of HEAD");
        for n in 1..=5 {
            assert!(heads.contains(&format!("x-requests: {n}\r\n")), "one connection: {heads}");
        }
        assert!(last.contains("x-requests: 6\r\n") && last.contains("content-length: 1048576\r\n"));
        front.stop().await;
    }
    nginx.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn nginx_may_close_idle_connections_and_restart() {
    let dir = directory();
    let addr = free_address().await;
    let nginx = Nginx::start(dir.path(), addr, "keepalive_requests 2;").await;
    let front = start(Upstream::new([addr.to_string()]).unwrap()).await;
    let many = get("/hello", "").repeat(20) + &get("/hello", "Connection: close\r\n");
    assert_eq!(statuses(&exchange(front.addr, &many).await), [200; 21]);

    nginx.stop().await;
    let one = get("/hello", "Connection: close\r\n");
    assert_eq!(statuses(&exchange(front.addr, &one).await), [502]);

    let nginx = Nginx::start(dir.path(), addr, "").await;
    assert_eq!(statuses(&exchange(front.addr, &many).await), [200; 21]);
    front.stop().await;
    nginx.stop().await;
}
