//! dnsmasq as the name server of a source of endpoints.

use std::{
    fs,
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    pin::Pin,
};

use futures_core::Stream;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::program;
use crate::{
    tests::support::within,
    upstream::discover::{DnsSource, Target, Update},
};

/// dnsmasq on a port of its own, with names from a file.
pub(super) struct Dnsmasq {
    child: Child,
    pub(super) addr: SocketAddr,
}

impl Dnsmasq {
    pub(super) fn free_address() -> SocketAddr {
        // Of its own network: no other test connects from there.
        UdpSocket::bind((Ipv4Addr::new(127, 78, 0, 1), 0)).unwrap().local_addr().unwrap()
    }

    pub(super) fn start(dir: &Path, addr: SocketAddr, more: &[&str]) -> Self {
        let hosts = dir.join("hosts");
        let mut command = program("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ]);
        command.args(["--bind-interfaces", "--local-ttl=1", "--pid-file"]);
        command.arg(format!("--log-facility={}", dir.join("log").display()));
        command.arg("--user=root").arg(format!("--addn-hosts={}", hosts.display()));
        command.arg(format!("--listen-address={}", addr.ip()));
        command.arg(format!("--port={}", addr.port())).args(more);
        Self { child: command.spawn().expect("dnsmasq is installed"), addr }
    }

    /// Reads the names again.
    pub(super) fn reload(&self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
    }

    pub(super) async fn stop(mut self) {
        self.child.start_kill().unwrap();
        within(self.child.wait()).await.unwrap();
    }
}

async fn next(source: &mut DnsSource) -> Result<Update, String> {
    let next = within(poll_fn(|cx| Pin::new(&mut *source).poll_next(cx))).await;
    next.expect("it never ends").map_err(|e| e.to_string())
}

/// The next set; errors before it do not count, as while the server starts.
async fn next_set(source: &mut DnsSource) -> Vec<Target> {
    loop {
        if let Ok(Update::Set(targets)) = next(source).await {
            return targets;
        }
    }
}

fn targets(texts: &[&str]) -> Vec<Target> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
#[cfg_attr(not(all(peer_dnsmasq, peer_root)), ignore = "apt-get install dnsmasq")]
async fn dns_source_follows_addresses_of_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    fs::write(&hosts, "10.0.0.2 app.test\n10.0.0.1 app.test\nfd00::1 app.test\n").unwrap();
    let server = Dnsmasq::start(dir.path(), Dnsmasq::free_address(), &[]);
    let addr = server.addr;
    let mut source = DnsSource::hosts_at(addr, "app.test.", 80).unwrap();
    let all = ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"];
    assert_eq!(next_set(&mut source).await, targets(&all));
    fs::write(&hosts, "10.0.0.3 app.test\n").unwrap();
    server.reload();
    assert_eq!(next_set(&mut source).await, targets(&["10.0.0.3:80"]), "when the TTL is over");
    // A name that is gone is an error, and no empty set.
    fs::write(&hosts, "").unwrap();
    server.reload();
    let error = next(&mut source).await.unwrap_err();
    assert!(error.starts_with("cannot resolve app.test."), "{error}");
    fs::write(&hosts, "10.0.0.4 app.test\n").unwrap();
    server.stop().await;
    let server = Dnsmasq::start(dir.path(), addr, &[]);
    assert_eq!(next_set(&mut source).await, targets(&["10.0.0.4:80"]));
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(all(peer_dnsmasq, peer_root)), ignore = "apt-get install dnsmasq")]
async fn dns_source_makes_tiers_and_weights_of_services() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = "10.0.0.1 one.test\n10.0.0.2 two.test\n10.0.0.3 spare.test\n";
    fs::write(dir.path().join("hosts"), hosts).unwrap();
    let services = [
        "--srv-host=_http._tcp.app.test,one.test,8001,10,3",
        "--srv-host=_http._tcp.app.test,two.test,8002,10,0",
        "--srv-host=_http._tcp.app.test,spare.test,8003,20,5",
    ];
    let server = Dnsmasq::start(dir.path(), Dnsmasq::free_address(), &services);
    let mut source = DnsSource::srv_at(server.addr, "_http._tcp.app.test.").unwrap();
    let expected =
        ["10.0.0.1:8001 weight=3", "10.0.0.2:8002 weight=1", "10.0.0.3:8003 weight=5 tier=1"];
    assert_eq!(next_set(&mut source).await, targets(&expected));
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(all(peer_dnsmasq, peer_root)), ignore = "apt-get install dnsmasq")]
async fn dns_source_leaves_out_servers_without_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    fs::write(&hosts, "10.0.0.1 one.test\n").unwrap();
    let options = [
        "--local=/test/", // other names below it do not exist
        "--srv-host=_http._tcp.app.test,gone.test,8000,10,1",
        "--srv-host=_http._tcp.app.test,one.test,8001,20,1",
    ];
    let server = Dnsmasq::start(dir.path(), Dnsmasq::free_address(), &options);
    let mut source = DnsSource::srv_at(server.addr, "_http._tcp.app.test.").unwrap();
    assert_eq!(next_set(&mut source).await, targets(&["10.0.0.1:8001 weight=1 tier=1"]));
    fs::write(&hosts, "10.0.0.2 one.test\n").unwrap();
    server.reload();
    assert_eq!(next_set(&mut source).await, targets(&["10.0.0.2:8001 weight=1 tier=1"]));
    fs::write(&hosts, "").unwrap();
    server.reload();
    let error = next(&mut source).await.unwrap_err();
    assert!(error.starts_with("cannot resolve one.test"), "{error}");
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(all(peer_dnsmasq, peer_root)), ignore = "apt-get install dnsmasq")]
async fn dns_source_does_not_ask_again_before_the_ttl_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    fs::write(&hosts, "10.0.0.1 short.test\n").unwrap();
    // Names from the file have a TTL of 1 s.
    let options = ["--log-queries", "--host-record=long.test,10.0.0.9,600"];
    let server = Dnsmasq::start(dir.path(), Dnsmasq::free_address(), &options);
    let mut short = DnsSource::hosts_at(server.addr, "short.test.", 80).unwrap();
    assert_eq!(next_set(&mut short).await, targets(&["10.0.0.1:80"]));
    let mut long = DnsSource::hosts_at(server.addr, "long.test.", 80).unwrap();
    assert_eq!(next_set(&mut long).await, targets(&["10.0.0.9:80"]));
    for n in 2..5 {
        fs::write(&hosts, format!("10.0.0.{n} short.test\n")).unwrap();
        server.reload();
        tokio::select! {
            biased;
            update = next(&mut long) => panic!("{update:?}"),
            set = next_set(&mut short) => assert_eq!(set, targets(&[&format!("10.0.0.{n}:80")])),
        }
    }
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    let asked = |name: &str| log.matches(&format!("query[A] {name} ")).count();
    assert!(asked("short.test") >= 4, "{log}");
    assert_eq!(asked("long.test"), 1, "{log}");
    server.stop().await;
}
