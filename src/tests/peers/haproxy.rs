//! Tests with HAProxy as the sender of the PROXY protocol.

use std::{convert::Infallible, fs};

use tokio::net::TcpStream;
use tower::service_fn;

use super::{listening, nginx::free_address, program};
use crate::{
    Body, Request, Response,
    conn::ProxyProtocol,
    peer::Peer,
    tests::support::{start_with, statuses, within},
};

const REQUESTS: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n\
    GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

async fn tell(request: Request) -> Result<Response, Infallible> {
    let peer: &Peer = request.extensions().get().unwrap();
    let to = peer.proxy_addresses().map(|addresses| addresses.destination);
    Ok(Response::new(Body::from(format!("{peer} to {to:?}\n"))))
}

#[tokio::test]
#[cfg_attr(not(peer_haproxy), ignore = "apt-get install haproxy")]
async fn haproxy_names_its_client_in_each_form_of_the_header() {
    use tokio::io::AsyncWriteExt;

    let senders = ProxyProtocol::new().trust("127.0.0.0/8".parse().unwrap());
    let server = start_with(service_fn(tell), |s| s.proxy_protocol(senders)).await;
    let dir = tempfile::tempdir().unwrap();
    // The last one has a checksum and other extensions, the checks of all are LOCAL or UNKNOWN.
    let forms = [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority",
    ];
    let mut fronts = Vec::new();
    let mut conf = String::from(
        "defaults\n mode tcp\n timeout connect 9s\n timeout client 9s\n timeout server 9s\n",
    );
    for (n, form) in forms.iter().enumerate() {
        let addr = free_address().await;
        conf += &format!(
            "listen f{n}\n bind {addr}\n unique-id-format %{{+X}}o-%ci-%cp\n \
             server s {} check inter 100ms check-send-proxy {form}\n",
            server.addr
        );
        fronts.push(addr);
    }
    let path = dir.path().join("haproxy.cfg");
    fs::write(&path, conf).unwrap();
    let mut child = program("haproxy").arg("-db").arg("-f").arg(&path).spawn().unwrap();
    for front in fronts {
        listening(&mut child, async || TcpStream::connect(front).await.is_ok()).await;
        let mut client = TcpStream::connect(front).await.unwrap();
        let own = client.local_addr().unwrap();
        client.write_all(REQUESTS.as_bytes()).await.unwrap();
        let answer = crate::tests::support::read_all(&mut client).await;
        assert_eq!(statuses(&answer), [200, 200], "{answer}");
        assert_eq!(answer.matches(&format!("{own} to Some({front})\n")).count(), 2, "{answer}");
    }
    child.start_kill().unwrap();
    within(child.wait()).await.unwrap();
    server.stop().await;
}
