//! Tests of the client behind a trusted proxy, as the service, logs and limits see it.

use std::error::Error as _;

use tower::ServiceExt;

use super::{super::assert_ready::AssertReady, *};
use crate::{Body, Response, layer::InFlightLayer, peer::Tls};

type Answer = Result<Response, BoxError>;

const PROXY: &str = "10.0.0.1:5000";

fn layer(field: ClientField) -> TrustedProxyLayer {
    TrustedProxyLayer::new(field).trust("10.0.0.0/8".parse().unwrap())
}

/// Responds with the client, its scheme, and the fields that name it.
async fn tell(request: Request<Body>) -> Answer {
    let peer = request.extensions().get::<Peer>();
    let mut text = peer.map_or_else(String::new, |p| format!("{p} {}", p.scheme()));
    let mut fields = Vec::new();
    for (name, value) in request.headers() {
        fields.push(format!(", {name}: {}", value.to_str()?));
    }
    fields.sort_unstable();
    text += &fields.concat();
    Ok(Response::new(Body::from(text)))
}

fn request(peer: Option<Peer>, fields: &[(&'static str, &'static str)]) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

fn tcp(remote: &str) -> Option<Peer> {
    Some(Peer::tcp(remote.parse().unwrap(), "10.0.0.9:80".parse().unwrap()))
}

async fn told(layer: &TrustedProxyLayer, request: Request<Body>) -> String {
    let response = layer.layer(AssertReady::new(tell)).oneshot(request).await.unwrap();
    String::from_utf8(response.body().as_bytes().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn trusted_proxy_names_the_client_and_other_peers_cannot() {
    let fields = [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-real-ip", "192.0.2.8"),
        ("forwarded", "for=192.0.2.9;proto=https"),
        ("x-forwarded-proto", "https"),
        ("accept", "*/*"),
    ];
    let accept = ", accept: */*";
    // X-Forwarded-Proto is not read here, so it is removed.
    let cases = [
        (
            ClientField::XForwardedFor,
            tcp(PROXY),
            format!("192.0.2.7 http{accept}, x-forwarded-for: 192.0.2.7"),
        ),
        (ClientField::XRealIp, tcp(PROXY), format!("192.0.2.8 http{accept}, x-real-ip: 192.0.2.8")),
        (
            ClientField::Forwarded,
            tcp(PROXY),
            format!("192.0.2.9 https{accept}, forwarded: {}", fields[2].1),
        ),
        (
            ClientField::XForwardedFor,
            tcp("11.0.0.1:5000"),
            "11.0.0.1:5000 http, accept: */*".to_owned(),
        ),
        (ClientField::XForwardedFor, Some(Peer::unix()), "unix http, accept: */*".to_owned()),
        (ClientField::XForwardedFor, None, ", accept: */*".to_owned()),
    ];
    for (field, peer, want) in cases {
        assert_eq!(told(&layer(field), request(peer, &fields)).await, want);
    }
    let unix = layer(ClientField::XForwardedFor).trust_unix();
    let text = told(&unix, request(Some(Peer::unix()), &fields[..1])).await;
    assert_eq!(text, "192.0.2.7 http, x-forwarded-for: 192.0.2.7");
    assert_eq!(told(&unix, request(Some(Peer::memory()), &fields[..1])).await, "memory http");
    let nothing = TrustedProxyLayer::new(ClientField::XForwardedFor);
    assert_eq!(told(&nothing, request(tcp(PROXY), &fields[..1])).await, "10.0.0.1:5000 http");
}

#[tokio::test]
async fn request_that_names_no_client_is_its_hops() {
    let text = told(&layer(ClientField::XForwardedFor), request(tcp(PROXY), &[])).await;
    assert_eq!(text, "10.0.0.1:5000 http");
    let fields = [("x-forwarded-for", "192.0.2.7, unknown")];
    let text = told(&layer(ClientField::XForwardedFor), request(tcp(PROXY), &fields)).await;
    assert_eq!(text, "10.0.0.1:5000 http");
}

#[tokio::test]
async fn hop_is_the_one_that_the_proxy_protocol_names() {
    let [client, destination] =
        [PROXY, "10.0.0.9:80"].map(|addr| addr.parse::<std::net::SocketAddr>().unwrap());
    let addresses = crate::peer::ProxyAddresses { client, destination };
    let fields = [("x-forwarded-for", "192.0.2.7:9")];
    let balancer = Peer::tcp("203.0.113.1:1".parse().unwrap(), destination);
    let request_of = |addresses| request(Some(balancer.clone().proxied(addresses)), &fields);
    let text = told(&layer(ClientField::XForwardedFor), request_of(addresses)).await;
    assert_eq!(text, "192.0.2.7:9 http, x-forwarded-for: 192.0.2.7:9");
    // The balancer's own address is not that of an HTTP proxy.
    let addresses =
        crate::peer::ProxyAddresses { client: "192.0.2.1:1".parse().unwrap(), destination };
    let trusted = layer(ClientField::XForwardedFor).trust("203.0.113.1".parse().unwrap());
    let text = told(&trusted, request_of(addresses)).await;
    assert_eq!(text, "192.0.2.1:1 http");
}

#[tokio::test]
async fn scheme_of_x_forwarded_proto_is_read_if_enabled() {
    let layer = layer(ClientField::XForwardedFor).x_forwarded_proto(true);
    let fields = [("x-forwarded-proto", "https"), ("x-forwarded-for", "192.0.2.7")];
    assert!(told(&layer, request(tcp(PROXY), &fields)).await.starts_with("192.0.2.7 https"));
    assert!(
        told(&layer, request(tcp(PROXY), &fields[..1])).await.starts_with("10.0.0.1:5000 https")
    );
    assert_eq!(told(&layer, request(tcp("192.0.2.7:1"), &fields)).await, "192.0.2.7:1 http");
    let secured = tcp(PROXY).map(|peer| peer.secured(Tls::new("TLSv1.3")));
    let plain = [("x-forwarded-proto", "http")];
    assert!(told(&layer, request(secured, &plain)).await.contains(" http, "));
}

#[tokio::test]
async fn field_of_a_trusted_proxy_that_is_ambiguous_is_a_bad_request() {
    let layer = layer(ClientField::XForwardedFor).x_forwarded_proto(true);
    for field in [("x-forwarded-for", "nonsense"), ("x-forwarded-proto", "https, http")] {
        let answer =
            layer.layer(AssertReady::new(tell)).oneshot(request(tcp(PROXY), &[field])).await;
        let error = answer.unwrap_err();
        let ours = Error::find(&*error).unwrap();
        assert_eq!(ours.kind(), Kind::BadRequest);
        assert!(ours.source().unwrap().is::<InvalidClientField>());
        let text = told(&layer, request(tcp("192.0.2.7:1"), &[field])).await;
        assert_eq!(text, "192.0.2.7:1 http", "the field of an untrusted peer is removed");
    }
}

#[tokio::test]
async fn refused_request_releases_permit_reserved_inside() {
    let limit = crate::layer::ConcurrencyLimitLayer::new(1);
    let mut service = layer(ClientField::XForwardedFor).layer(limit.layer(AssertReady::new(tell)));
    let bad = [("x-forwarded-for", "nonsense")];
    service.ready().await.unwrap().call(request(tcp(PROXY), &bad)).await.unwrap_err();
    assert_eq!(limit.stats().in_flight, 0);
}

#[tokio::test]
async fn limits_count_the_client_and_the_response_names_it() {
    let limit = InFlightLayer::<IpAddr>::per_ip(1);
    let mut service = layer(ClientField::XForwardedFor).layer(limit.layer(AssertReady::new(tell)));
    let from = |client| request(tcp(PROXY), &[("x-forwarded-for", client)]);
    let first = service.ready().await.unwrap().call(from("192.0.2.7"));
    let other = service.ready().await.unwrap().call(from("192.0.2.8"));
    assert_eq!(limit.clients(), 2);
    let error = service.clone().oneshot(from("6.6.6.6, 192.0.2.7")).await.unwrap_err();
    assert!(Error::find(&*error).unwrap().is_too_many_requests());
    for (call, client) in [(first, "192.0.2.7"), (other, "192.0.2.8")] {
        let response = call.await.unwrap();
        let peer = response.extensions().get::<Peer>().unwrap();
        assert_eq!((peer.to_string(), peer.hop_ip()), (client.to_owned(), "10.0.0.1".parse().ok()));
    }
    let own = service.oneshot(request(tcp("192.0.2.9:1"), &[])).await.unwrap();
    assert!(own.extensions().get::<Peer>().is_none(), "the connection's own");
}
