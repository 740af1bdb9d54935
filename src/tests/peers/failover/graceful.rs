//! nginx that ends gracefully (SIGQUIT) while requests are sent to it: it closes its listener and its idle connections, and
//! finishes the requests that it has read.

use std::path::Path;

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{net::TcpStream, process::Child};
use tower::ServiceBuilder;

use super::*;
use crate::{
    layer::RequestBufferLayer,
    tests::peers::{listening, program},
    upstream::RetryLayer,
};

/// nginx with a worker process, without which SIGQUIT is not graceful.
struct Graceful {
    child: Child,
    addr: SocketAddr,
}

impl Graceful {
    async fn start(dir: &Path, addr: SocketAddr) -> Self {
        let at = dir.display();
        let conf = format!(
            "daemon off; user root; worker_processes 1; pid {at}/pid; error_log stderr crit;\n\
             events {{ worker_connections 64; }}\n\
             http {{\n\
               access_log off;\n\
               client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
               uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
               server {{\n\
                 listen {addr};\n\
                 add_header X-Number $arg_n always;\n\
                 location = /hello {{ return 200 \"hello\"; }}\n\
               }}\n\
             }}\n"
        );
        fs::write(dir.join("conf"), conf).unwrap();
        let mut command = program("nginx");
        command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(dir.join("conf"));
        // Its worker would outlive a master that is killed; see `drop`.
        let mut child = command.kill_on_drop(false).spawn().expect("nginx is installed");
        listening(&mut child, async || TcpStream::connect(addr).await.is_ok()).await;
        Self { child, addr }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Ends it as an operator does, and waits until it has ended.
    async fn quit(&mut self) {
        self.signal(Signal::QUIT);
        within(self.child.wait()).await.unwrap();
    }
}

impl Drop for Graceful {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
    }
}

/// Restarts three nginx in turn behind a proxy with these retries, and returns the requests that failed.
async fn failures_of_rolling_restart(
    retry: RetryLayer,
    methods: &'static [&'static str],
) -> Vec<String> {
    let dirs = [directory(), directory(), directory()];
    let mut servers = Vec::new();
    for dir in &dirs {
        servers.push(Graceful::start(dir.path(), free_address().await).await);
    }
    let addresses = servers.iter().map(|nginx| nginx.addr.to_string());
    let upstream = Upstream::builder(addresses).retry(retry).build().unwrap();
    // The body of a request that may have been sent can be sent again.
    let buffered = ServiceBuilder::new().layer(RequestBufferLayer::new());
    let front = start(buffered.service(upstream.clone())).await;
    let load = Load::start(front.addr, methods);
    for (index, dir) in dirs.iter().enumerate() {
        load.go_on().await;
        let addr = servers[index].addr;
        servers[index].quit().await;
        load.go_on().await;
        servers[index] = Graceful::start(dir.path(), addr).await;
        // Otherwise the next restart could begin before this server gets requests again.
        let endpoint = upstream.balance().endpoint(&addr.to_string()).unwrap();
        until(|| endpoint.is_available() && endpoint.failures() == 0).await;
    }
    load.go_on().await;
    let failed = load.stop().await;
    front.stop().await;
    for nginx in &mut servers {
        nginx.quit().await;
    }
    failed
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn rolling_restart_of_nginx_without_drain_fails_no_idempotent_request() {
    let failed = failures_of_rolling_restart(RetryLayer::new(), &["GET", "PUT", "HEAD"]).await;
    assert_eq!(failed, Vec::<String>::new());
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn rolling_restart_of_nginx_without_drain_fails_no_repeatable_post() {
    // A POST that is sent in the moment in which nginx closes the connection may have been read.
    let retry = RetryLayer::new().repeatable(|request| request.method() == Method::POST);
    let failed = failures_of_rolling_restart(retry, &["POST", "GET"]).await;
    assert_eq!(failed, Vec::<String>::new());
}
