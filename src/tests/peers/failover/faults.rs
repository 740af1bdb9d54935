//! Servers that become slow, and that come and go.

use std::{net::Ipv4Addr, sync::atomic::AtomicU64, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::*;

/// Forwards connections to a server, whose bytes it delays: what the queue discipline `netem` does, which not every
/// kernel has.
struct Link {
    addr: SocketAddr,
    /// In milliseconds.
    delay: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Link {
    async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let delay = Arc::<AtomicU64>::default();
        let current = delay.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server, current.clone()));
            }
        });
        Self { addr, delay, task }
    }
}

async fn forward(client: TcpStream, server: SocketAddr, delay: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let down = async {
        let mut bytes = Vec::new();
        while from_server.read_buf(&mut bytes).await.unwrap_or(0) > 0 {
            match delay.load(Relaxed) {
                0 => {}
                ms => tokio::time::sleep(Duration::from_millis(ms)).await,
            }
            if to_client.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
        }
        let _ = to_client.shutdown().await;
    };
    tokio::join!(up, down);
}

/// Returns the share of each endpoint in the next requests, in per cent.
async fn next_shares(site: &Site, load: &Load) -> Vec<u64> {
    let counts = || site.upstream.balance().status().iter().map(|s| s.requests).collect::<Vec<_>>();
    let before = counts();
    load.go_on().await;
    let news: Vec<_> = counts().iter().zip(before).map(|(after, before)| after - before).collect();
    let total: u64 = news.iter().sum();
    news.iter().map(|new| new * 100 / total).collect()
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn server_that_becomes_slow_loses_its_share_of_requests() {
    let mut site = Site::start().await;
    let mut links = Vec::new();
    for nginx in site.servers.iter().flatten() {
        links.push(Link::start(nginx.addr).await);
    }
    let addresses = links.iter().map(|link| link.addr.to_string());
    site.upstream = Upstream::builder(addresses).policy(PeakEwma::new()).build().unwrap();
    let direct = std::mem::replace(&mut site.front, start(site.upstream.clone()).await);
    direct.stop().await;

    let load = Load::start(site.front.addr, &["GET"]);
    load.go_on().await;
    let shares = next_shares(&site, &load).await;
    assert!(shares.iter().all(|&share| share >= 5), "all have some: {shares:?}");
    links[0].delay.store(300, Relaxed);
    let begin = Instant::now();
    until(|| begin.elapsed() >= Duration::from_secs(1)).await;
    // A count, and not a time: on a machine that is busy for all of this second, each client has one more request there.
    let shares = next_shares(&site, &load).await;
    assert!(shares[0] <= 4, "the slow one has few after a second: {shares:?}");

    let failed = load.stop().await;
    assert_eq!(failed, Vec::<String>::new());
    site.stop().await;
    links.iter().for_each(|link| link.task.abort());
}

#[tokio::test]
#[cfg_attr(not(peer_nginx), ignore = "apt-get install nginx")]
async fn flapping_nginx_fails_no_idempotent_request() {
    let mut site = Site::start().await;
    let load = Load::start(site.front.addr, &["GET", "HEAD"]);
    for _ in 0..4 {
        load.go_on().await;
        site.restart(1).await;
    }
    load.go_on().await;
    let failed = load.stop().await;
    assert_eq!(failed, Vec::<String>::new());
    site.stop().await;
}
