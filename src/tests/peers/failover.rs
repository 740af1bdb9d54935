//! Three nginx behind the proxy, which come and go under load.

mod faults;
mod graceful;
mod partition;
#[cfg(all(feature = "dns", feature = "etcd"))]
mod sources;
mod vanished;

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::nginx::{Nginx, directory, free_address};
use crate::{
    policy::pick::PeakEwma,
    tests::support::{Running, exchange, start, statuses, within},
    upstream::Upstream,
};

/// Requests of each client before and after each event, so that all servers have had some.
const REQUESTS: usize = 40;
const CLIENTS: usize = 6;

struct Site {
    dirs: Vec<TempDir>,
    servers: Vec<Option<Nginx>>,
    upstream: Upstream,
    front: Running,
}

impl Site {
    async fn start() -> Self {
        let dirs: Vec<_> = (0..3).map(|_| directory()).collect();
        let mut servers = Vec::new();
        for dir in &dirs {
            servers.push(Some(Nginx::start(dir.path(), free_address().await, "").await));
        }
        let addresses = servers.iter().flatten().map(|nginx| nginx.addr.to_string());
        let upstream = Upstream::builder(addresses).policy(PeakEwma::new()).build().unwrap();
        let front = start(upstream.clone()).await;
        Self { dirs, servers, upstream, front }
    }

    async fn restart(&mut self, index: usize) {
        let nginx = self.servers[index].take().unwrap();
        let addr = nginx.addr;
        nginx.stop().await; // with SIGKILL
        let _ = fs::remove_file(self.dirs[index].path().join("pid"));
        self.servers[index] = Some(Nginx::start(self.dirs[index].path(), addr, "").await);
    }

    async fn stop(self) {
        self.front.stop().await;
        for nginx in self.servers.into_iter().flatten() {
            nginx.stop().await;
        }
    }
}

/// Clients that ask until they are stopped, and what failed.
struct Load {
    done: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Each client sends these methods in turn.
    fn start(front: SocketAddr, methods: &'static [&'static str]) -> Self {
        let (done, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let client = |_| {
            let (done, is_over) = (done.clone(), is_over.clone());
            tokio::spawn(async move {
                let mut failed = Vec::new();
                for method in methods.iter().cycle() {
                    let answer = ask(front, method).await;
                    if statuses(&answer) != [200] {
                        failed.push(format!("{method}: {answer}"));
                    }
                    done.fetch_add(1, Relaxed);
                    if is_over.load(Relaxed) {
                        break;
                    }
                }
                failed
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { done, is_over, clients }
    }

    /// Waits for more answers.
    async fn go_on(&self) {
        let end = self.done.load(Relaxed) + REQUESTS * CLIENTS;
        until(|| self.done.load(Relaxed) >= end).await;
    }

    async fn stop(self) -> Vec<String> {
        self.is_over.store(true, Relaxed);
        let mut failed = Vec::new();
        for client in self.clients {
            failed.extend(within(client).await.unwrap());
        }
        failed
    }
}

/// Sends a request with its own number, which a server repeats, and returns the response. PUT and POST have a body.
async fn ask(front: SocketAddr, method: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    let body = if matches!(method, "PUT" | "POST") { "content" } else { "" };
    let request = format!(
        "{method} /hello?n={number} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(front, request).await;
    let is_own = answer.to_lowercase().contains(&format!("\r\nx-number: {number}\r\n"));
    assert!(is_own || statuses(&answer) != [200], "of another request than {number}: {answer}");
    answer
}

async fn until(is_met: impl Fn() -> bool) {
    within(async {
        while !is_met() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn killed_nginx_fails_no_idempotent_request() {
    let mut site = Site::start().await;
    let load = Load::start(site.front.addr, &["GET", "HEAD"]);
    load.go_on().await;
    let killed = site.servers[1].take().unwrap();
    let addr = killed.addr;
    killed.stop().await;
    load.go_on().await;
    let key = addr.to_string();
    assert!(!site.upstream.balance().endpoint(&key).unwrap().is_available());
    site.servers[1] = Some(Nginx::start(site.dirs[1].path(), addr, "").await);
    // It comes back by itself, when its ejection is over.
    let back = site.upstream.balance().endpoint(&key).unwrap();
    until(|| back.failures() == 0).await;
    load.go_on().await;
    let failed = load.stop().await;
    assert_eq!(failed, Vec::<String>::new());
    site.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn rolling_restart_of_drained_nginx_fails_no_request() {
    let mut site = Site::start().await;
    let load = Load::start(site.front.addr, &["POST", "GET"]);
    load.go_on().await;
    for index in 0..3 {
        let key = site.servers[index].as_ref().unwrap().addr.to_string();
        let endpoint = site.upstream.balance().endpoint(&key).unwrap();
        endpoint.drain();
        within(endpoint.idle()).await;
        site.restart(index).await;
        endpoint.restore();
        load.go_on().await;
    }
    let failed = load.stop().await;
    assert_eq!(failed, Vec::<String>::new());
    assert!(site.upstream.balance().status().iter().all(|s| s.requests > 0 && s.in_flight == 0));
    site.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn nginx_joins_and_leaves_under_load_without_a_failed_request() {
    use crate::upstream::discover::FileSource;
    let mut site = Site::start().await;
    let list = site.dirs[0].path().join("servers");
    let lines = |site: &Site, skip: Option<usize>| {
        let servers = site.servers.iter().flatten().enumerate();
        let lines = servers.filter(|(i, _)| Some(*i) != skip).map(|(_, n)| format!("{}\n", n.addr));
        let new = list.with_extension("new");
        fs::write(&new, lines.collect::<String>()).unwrap();
        fs::rename(new, &list).unwrap();
    };
    lines(&site, None);
    let source = FileSource::with_interval(&list, std::time::Duration::from_millis(10));
    let task = tokio::spawn(site.upstream.follow(source));
    let load = Load::start(site.front.addr, &["POST", "GET"]);
    load.go_on().await;
    let balance = site.upstream.balance().clone();
    for index in [0, 2] {
        let key = site.servers[index].as_ref().unwrap().addr.to_string();
        let leaves = balance.endpoint(&key).unwrap();
        lines(&site, Some(index));
        until(|| balance.endpoint(&key).is_none()).await;
        within(leaves.idle()).await;
        site.restart(index).await;
        lines(&site, None);
        until(|| balance.endpoint(&key).is_some()).await;
        load.go_on().await;
    }
    let failed = load.stop().await;
    assert_eq!(failed, Vec::<String>::new());
    task.abort();
    site.stop().await;
}
