//! Tests of the addresses and facts of a peer.

use super::*;

#[test]
fn proxied_peer_has_the_client_address_and_keeps_that_of_the_socket() {
    let [client, destination, proxy, local] =
        ["192.0.2.1:1", "192.0.2.2:443", "10.0.0.1:2", "10.0.0.2:80"]
            .map(|addr| addr.parse::<SocketAddr>().unwrap());
    let peer = Peer::tcp(proxy, local);
    let proxied = peer.clone().proxied(ProxyAddresses { client, destination });
    assert_eq!((proxied.addr(), proxied.ip()), (Some(client), Some(client.ip())));
    assert_eq!((proxied.remote_addr(), proxied.local_addr()), (Some(proxy), Some(local)));
    assert_eq!(proxied.to_string(), "192.0.2.1:1");
    assert_eq!(proxied.proxy_addresses().unwrap().destination, destination);
    assert_eq!(peer.addr(), Some(proxy), "a clone is not changed");
    assert_eq!(Peer::unix().proxied(ProxyAddresses { client, destination }).addr(), Some(client));
}

#[test]
fn forwarded_client_is_apart_from_its_hop() {
    let proxy: SocketAddr = "10.0.0.1:2".parse().unwrap();
    let peer = Peer::tcp(proxy, "10.0.0.2:80".parse().unwrap());
    let ip: IpAddr = "2001:db8::1".parse().unwrap();
    let named = peer.clone().forwarded_for(ip, None).forwarded_proto(Scheme::HTTPS);
    assert_eq!((named.ip(), named.addr(), named.to_string()), (Some(ip), None, ip.to_string()));
    assert_eq!((named.hop_ip(), named.remote_addr()), (Some(proxy.ip()), Some(proxy)));
    assert_eq!((named.scheme(), named.hop_scheme()), (Scheme::HTTPS, Scheme::HTTP));
    assert_eq!(named.network(IPV6_PREFIX).unwrap().to_string(), "2001:db8::");
    assert_eq!((peer.ip(), peer.scheme()), (Some(proxy.ip()), Scheme::HTTP), "not changed");

    let named = Peer::unix().forwarded_for(ip, Some(7));
    assert_eq!((named.addr(), named.hop_ip()), (Some((ip, 7).into()), None));
    assert_eq!(named.to_string(), "[2001:db8::1]:7");

    let [client, destination] = ["192.0.2.1:1", "192.0.2.2:443"].map(|a| a.parse().unwrap());
    let behind = peer.proxied(ProxyAddresses { client, destination }).forwarded_for(ip, None);
    assert_eq!((behind.ip(), behind.hop_ip()), (Some(ip), Some(client.ip())));
}

#[test]
fn tls_facts_make_the_scheme_https() {
    let tls =
        Tls::new("TLSv1.3").with_server_name("a").with_alpn("h2").with_client_certificate(vec![1]);
    let peer = Peer::memory().secured(tls);
    assert_eq!((peer.scheme(), Peer::memory().scheme()), (Scheme::HTTPS, Scheme::HTTP));
    let tls = peer.tls().unwrap();
    assert_eq!((tls.version(), tls.server_name()), ("TLSv1.3", Some("a")));
    assert_eq!((tls.alpn(), tls.client_certificate()), (Some(&b"h2"[..]), Some(&[1][..])));
}

#[test]
fn ipv4_client_is_its_address_and_ipv6_client_its_network() {
    let network = |ip: &str, prefix| {
        let ip: IpAddr = ip.parse().unwrap();
        let peer = Peer::tcp((ip, 1).into(), (ip, 80).into());
        peer.network(prefix).unwrap().to_string()
    };
    for prefix in [0, 64, 128] {
        assert_eq!(network("192.0.2.1", prefix), "192.0.2.1");
        assert_eq!(network("::ffff:192.0.2.1", prefix), "192.0.2.1");
    }
    let ip = "2001:db8:a:b:c:d:e:ffff";
    assert_eq!(network(ip, 0), "::");
    assert_eq!(network(ip, 56), "2001:db8:a::");
    assert_eq!(network(ip, 64), "2001:db8:a:b::");
    assert_eq!(network(ip, 127), "2001:db8:a:b:c:d:e:fffe");
    assert_eq!(network(ip, 128), ip);
    assert_eq!(network(ip, 255), ip);
    assert_eq!((Peer::unix().network(64), Peer::memory().network(64)), (None, None));
}
