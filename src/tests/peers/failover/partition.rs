//! A network that loses all packets between the front and one of its servers, without a reset or another message.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    super::machines::{Machine, Network},
    *,
};
use crate::{
    policy::{backoff::Backoff, health::HealthOptions},
    proto::h1::Limits,
    tests::support::read_until,
    upstream::{EndpointHandle, PoolConfig, RetryLayer},
};

/// The time that a server has for each attempt, and for each pause in a body. The server that is not lost needs far
/// less, even if the machine of the tests is busy.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A front, and a server on another machine that is still there when the other one is lost.
struct Site {
    near: Nginx,
    upstream: Upstream,
    front: Running,
}

impl Site {
    async fn start(near: Nginx, far: &Nginx) -> Self {
        let ejection = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        let upstream = Upstream::builder([near.addr, far.addr].map(|addr| addr.to_string()))
            .health(HealthOptions::new().consecutive_failures(2).ejection(ejection))
            .pool(PoolConfig::new().connect_timeout(TIMEOUT))
            .retry(RetryLayer::new().attempts(3).attempt_timeout(TIMEOUT))
            .limits(Limits::new().body_timeout(TIMEOUT))
            .build()
            .unwrap();
        let front = start(upstream.clone()).await;
        Self { near, upstream, front }
    }

    fn endpoint(&self, server: &Nginx) -> EndpointHandle {
        self.upstream.balance().endpoint(&server.addr.to_string()).unwrap()
    }

    fn requests(&self, server: &Nginx) -> u64 {
        let key = server.addr.to_string();
        let status = self.upstream.balance().status();
        status.iter().find(|status| status.key.as_str() == key).unwrap().requests
    }
}

async fn start_nginx(machine: &Machine, dir: &TempDir) -> Nginx {
    let addr = SocketAddr::new(machine.ip.parse().unwrap(), 8000);
    let _ = fs::remove_file(dir.path().join("pid"));
    Nginx::start_on(
        machine,
        dir.path(),
        addr,
        "map $arg_rate $rate { default 0; ~. $arg_rate; } limit_rate $rate;",
    )
    .await
}

/// Begins to read a large response, which would take minutes.
async fn begin_download(front: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(front).await.unwrap();
    client.write_all(b"GET /1m.bin?rate=8192 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert_eq!(statuses(&head), [200], "{head}");
    client
}

/// Loses the packets of `far` under load. Runs where the front is.
async fn partition_and_heal(network: &Network, near: &Machine, far: &Machine) {
    let dirs = [directory(), directory()];
    let (machine, mut far) = (far, start_nginx(far, &dirs[1]).await);
    let site = Site::start(start_nginx(near, &dirs[0]).await, &far).await;
    let (front, near, lost) = (site.front.addr, site.endpoint(&site.near), site.endpoint(&far));
    let load = Load::start(front, &["GET", "POST"]);
    load.go_on().await;
    assert_eq!(load.stop().await, Vec::<String>::new());

    near.drain();
    let mut download = begin_download(front).await;
    network.set_link(machine, false);
    let began = Instant::now();
    // Its connection is from before, so the server may have received it.
    assert_eq!(statuses(&ask(front, "POST").await), [504]);
    assert!(began.elapsed() >= TIMEOUT, "no packet has reported the failure");
    let mut rest = Vec::new();
    let _ = within(download.read_to_end(&mut rest)).await;
    assert!(rest.len() < 1 << 20, "the response was aborted: {}", rest.len());
    near.restore();

    // The other server answers what may be repeated, until the lost one is ejected and then.
    let load = Load::start(front, &["GET", "HEAD"]);
    until(|| !lost.is_available()).await;
    load.go_on().await;
    assert!(near.is_available() && lost.failures() >= 2);

    // Now it does not know the connections that the front has to it.
    far.stop().await;
    far = start_nginx(machine, &dirs[1]).await;
    load.go_on().await;
    network.set_link(machine, true);
    until(|| lost.failures() == 0).await;
    let before = site.requests(&far);
    load.go_on().await;
    assert_eq!(load.stop().await, Vec::<String>::new());
    assert!(site.requests(&far) > before, "it has its share again");
    near.drain();
    assert_eq!(statuses(&ask(front, "POST").await), [200]);

    site.front.stop().await;
    assert_eq!([near.in_flight(), lost.in_flight()], [0, 0]);
    site.near.stop().await;
    far.stop().await;
}

#[test]
#[cfg_attr(not(all(peer_root, peer_ip, peer_nginx)), ignore = "it needs root, ip and nginx")]
fn partition_fails_no_idempotent_request_and_lost_server_comes_back() {
    let (network, [front, near, far]) = Network::new("p");
    std::thread::scope(|scope| {
        let test = scope.spawn(|| front.run(partition_and_heal(&network, &near, &far)));
        test.join().unwrap();
    });
}
