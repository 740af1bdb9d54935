//! nginx that join and leave under load, as DNS and etcd tell.

use std::net::IpAddr;

use super::*;
use crate::{
    tests::peers::{dnsmasq::Dnsmasq, etcd::Etcd},
    upstream::{
        EmptySet,
        discover::{Discover, DnsSource, EtcdSource},
    },
};

/// Follows `source` while the set that `publish` makes known changes.
async fn follow_under_load(
    addrs: [SocketAddr; 3],
    source: impl Discover + 'static,
    publish: impl AsyncFn(&[SocketAddr]),
) {
    let dirs = [directory(), directory(), directory()];
    let mut servers = Vec::new();
    for (dir, addr) in dirs.iter().zip(addrs) {
        servers.push(Some(Nginx::start(dir.path(), addr, "").await));
    }
    let no_servers: [&str; 0] = [];
    let upstream = Upstream::builder(no_servers).empty(EmptySet::Fail).build().unwrap();
    let balance = upstream.balance().clone();
    let find = |addr: SocketAddr| balance.endpoint(&addr.to_string());
    let task = tokio::spawn(upstream.follow(source));
    let [one, two, three] = addrs;
    until(|| find(one).is_some() && find(two).is_some()).await;
    let front = start(upstream.clone()).await;
    let load = Load::start(front.addr, &["POST", "GET"]);
    load.go_on().await;
    publish(&[one, two, three]).await;
    until(|| find(three).is_some()).await;
    load.go_on().await;
    for (index, remaining) in [(0, [two, three]), (1, [one, three])] {
        let leaves = find(addrs[index]).unwrap();
        publish(&remaining).await;
        until(|| find(addrs[index]).is_none()).await;
        within(leaves.idle()).await;
        let nginx: Nginx = servers[index].take().unwrap();
        nginx.stop().await;
        load.go_on().await;
        let _ = fs::remove_file(dirs[index].path().join("pid"));
        servers[index] = Some(Nginx::start(dirs[index].path(), addrs[index], "").await);
        publish(&addrs).await;
        until(|| addrs.iter().all(|addr| find(*addr).is_some())).await;
        load.go_on().await;
    }
    let failed = load.stop().await;
    assert_eq!(failed, Vec::<String>::new());
    let status = balance.status();
    assert!(status.iter().all(|s| s.requests > 0 && s.in_flight == 0), "{status:?}");
    task.abort();
    front.stop().await;
    for nginx in servers.into_iter().flatten() {
        nginx.stop().await;
    }
}

#[tokio::test]
#[cfg_attr(not(all(peer_dnsmasq, peer_nginx, peer_root)), ignore = "apt-get install dnsmasq nginx")]
async fn upstream_that_follows_dnsmasq_loses_no_request() {
    // DNS tells no ports.
    let first = free_address().await;
    let addrs = [1, 2, 3].map(|n| {
        let IpAddr::V4(ip) = first.ip() else { unreachable!("it is of 127.77.0.0/16") };
        let [a, b, _, d] = ip.octets();
        SocketAddr::from(([a, b, n, d], first.port()))
    });
    let dir = tempfile::tempdir().unwrap();
    let write = |addrs: &[SocketAddr]| {
        let lines = addrs.iter().map(|addr| format!("{} app.test\n", addr.ip()));
        fs::write(dir.path().join("hosts"), lines.collect::<String>()).unwrap();
    };
    write(&addrs[..2]);
    let server = Dnsmasq::start(dir.path(), Dnsmasq::free_address(), &[]);
    let source = DnsSource::hosts_at(server.addr, "app.test.", first.port()).unwrap();
    follow_under_load(addrs, source, async |addrs| {
        write(addrs);
        server.reload();
    })
    .await;
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(all(peer_etcd, peer_nginx)), ignore = "apt-get install etcd-server nginx")]
async fn upstream_that_follows_etcd_loses_no_request() {
    let addrs = [free_address().await, free_address().await, free_address().await];
    let dir = tempfile::tempdir().unwrap();
    let (client, peer) = (Etcd::free_address().await, Etcd::free_address().await);
    let etcd = Etcd::start(dir.path(), client, peer).await;
    let publish = async |present: &[SocketAddr]| {
        for addr in addrs {
            let key = format!("/app/{addr}");
            if present.contains(&addr) {
                etcd.put(&key, "").await;
            } else {
                etcd.delete(&key).await;
            }
        }
    };
    publish(&addrs[..2]).await;
    let source = EtcdSource::new([client.to_string()], "/app/").unwrap();
    follow_under_load(addrs, source, &publish).await;
    etcd.stop().await;
}
