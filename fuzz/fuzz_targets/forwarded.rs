//! Invariant: for any fields of a client, the last element of each list is the peer's own address; an
//! untrusted client's fields of this kind are removed in any spelling; `Proxy` is never forwarded.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::{arbitrary, arbitrary::Arbitrary, fuzz_target};
use vestibule::peer::{Peer, Tls};
use vestibule::semantics::forwarded::{ForwardedFields, Trust};

#[derive(Arbitrary, Debug)]
struct Input {
    mode: u8,
    rfc7239: bool,
    ip: Option<IpAddr>,
    https: bool,
    host: Option<Vec<u8>>,
    fields: Vec<(u8, Vec<u8>)>,
}

const NAMES: [&str; 12] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-real-ip",
    "true-client-ip",
    "x_forwarded_for",
    "x-forwarded.host",
    "x.real_ip",
    "proxy",
    "accept",
];

fuzz_target!(|input: Input| {
    let mut headers = HeaderMap::new();
    for (name, value) in &input.fields {
        let name = HeaderName::from_static(NAMES[usize::from(*name) % NAMES.len()]);
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let host = input.host.as_ref().and_then(|host| HeaderValue::from_bytes(host).ok());
    let at = |ip| SocketAddr::new(ip, 9);
    let mut peer = input.ip.map_or_else(Peer::unix, |ip| Peer::tcp(at(ip), at(ip)));
    if input.https {
        peer = peer.secured(Tls::new("TLSv1.3"));
    }
    let before = headers.clone();
    let trust = [Trust::Replace, Trust::Append, Trust::Keep][usize::from(input.mode) % 3];
    let fields = ForwardedFields::new().trust(trust).rfc7239(input.rfc7239);
    fields.apply(&mut headers, &peer, host.as_ref());

    assert!(!headers.contains_key("proxy"));
    assert_eq!(headers.get("accept"), before.get("accept"));
    if trust == Trust::Keep {
        let mut kept = before;
        for dropped in ["proxy", "x_forwarded_for", "x-forwarded.host", "x.real_ip"] {
            kept.remove(dropped);
        }
        assert_eq!(headers, kept);
        return;
    }
    if let Some(ip) = input.ip {
        let list = only(&headers, "x-forwarded-for");
        let last = list.rsplit(|b| *b == b',').next().expect("there is one");
        let last = std::str::from_utf8(last).expect("the element is ASCII").trim();
        assert_eq!(last.parse::<IpAddr>(), Ok(ip.to_canonical()));
    }
    let had = |name: &str| trust == Trust::Append && before.contains_key(name);
    if input.rfc7239 || had("forwarded") {
        let list = only(&headers, "forwarded");
        let element = element(input.ip, host.as_ref(), input.https);
        assert!(list.ends_with(&element), "{list:?}");
        assert!(list.len() == element.len() || list[..list.len() - element.len()].ends_with(b", "));
    } else {
        assert!(!headers.contains_key("forwarded"));
    }
    if trust == Trust::Append {
        return;
    }
    assert_eq!(
        only(&headers, "x-forwarded-proto"),
        if input.https { "https" } else { "http" }.as_bytes()
    );
    assert_eq!(headers.get("x-forwarded-host"), host.as_ref());
    for name in headers.keys() {
        let folded = name.as_str().replace(['_', '.'], "-");
        let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
        assert!(!folded.starts_with("x-forwarded") || ours.contains(&name.as_str()), "{name}");
        assert!(!["x-real-ip", "x-client-ip", "true-client-ip"].contains(&&*folded), "{name}");
    }
    if input.ip.is_none() {
        assert!(!headers.contains_key("x-forwarded-for"));
    }
});

/// Returns the value of a field, which must occur once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> &'a [u8] {
    let mut values = headers.get_all(name).iter();
    let value = values.next().expect("it is there").as_bytes();
    assert!(values.next().is_none(), "{name} comes once");
    value
}

/// A second implementation of the element of RFC 7239 section 4.
fn element(ip: Option<IpAddr>, host: Option<&HeaderValue>, https: bool) -> Vec<u8> {
    let node = match ip.map(|ip| ip.to_canonical()) {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
    };
    let mut element = format!("for={node}").into_bytes();
    if let Some(host) = host {
        let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        element.extend_from_slice(b";host=");
        if !host.is_empty() && host.as_bytes().iter().all(is_token) {
            element.extend_from_slice(host.as_bytes());
        } else {
            element.push(b'"');
            for b in host.as_bytes() {
                if matches!(b, b'"' | b'\\') {
                    element.push(b'\\');
                }
                element.push(*b);
            }
            element.push(b'"');
        }
    }
    element.extend_from_slice(if https { b";proto=https" } else { b";proto=http" });
    element
}
