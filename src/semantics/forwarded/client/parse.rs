//! Parses the nodes and elements of the fields in which proxies name clients (RFC 7239 sections 4 and 6).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{super::is_token, Element, Node};

/// Parses a node of RFC 7239 section 6: `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]:80`, `_hidden`,
/// `_hidden:_port`.
pub(super) fn parse_rfc7239_node(text: &str) -> Option<Node> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        Some(port) if is_obfuscated(port) => None,
        Some(port) => Some(parse_port(port)?),
        None => None,
    };
    if is_obfuscated(name) || name.eq_ignore_ascii_case("unknown") {
        return Some(Node::Unidentified);
    }
    let ip = match name.strip_prefix('[') {
        Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?),
        None => IpAddr::V4(name.parse().ok()?),
    };
    Some(Node::Address(ip.to_canonical(), port))
}

/// Parses a node as proxies write it outside `Forwarded`: IPv6 with or without brackets, either with an
/// optional port.
pub(super) fn parse_loose_node(text: &str) -> Option<Node> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Node::Address(ip.to_canonical(), None));
    }
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Some(Node::Address(addr.ip().to_canonical(), Some(addr.port())));
    }
    if is_obfuscated(text) {
        return Some(Node::Unidentified);
    }
    let ip: Ipv6Addr = text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    Some(Node::Address(IpAddr::V6(ip).to_canonical(), None))
}

/// Returns whether it is an obfuscated identifier (RFC 7239 section 6.3).
fn is_obfuscated(text: &str) -> bool {
    let is_valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() > 1 && text.starts_with('_') && text.bytes().all(is_valid)
}

/// Parses a port of 1 to 5 digits (RFC 7239 section 6.1).
fn parse_port(text: &str) -> Option<u16> {
    let is_number = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Adds the elements of a `Forwarded` line (RFC 7239 section 4) to `elements`; `None` if it does not
/// follow the grammar. White space is allowed around `;` too, as several proxies write it.
pub(super) fn parse_forwarded<'a>(line: &'a [u8], elements: &mut Vec<Element<'a>>) -> Option<()> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        let begin = rest;
        let mut element = Element { node: b"unknown", ..Element::of_node(b"") };
        let (mut has_for, mut has_pair) = (false, false);
        loop {
            rest = rest.trim_ascii_start();
            if let Some((name, value, after)) = parse_pair(rest)? {
                has_pair = true;
                if name.eq_ignore_ascii_case(b"for") {
                    element.has_duplicate |= has_for;
                    (element.node, has_for) = (value, true);
                } else if name.eq_ignore_ascii_case(b"proto") {
                    element.has_duplicate |= element.proto.is_some();
                    element.proto = Some(value);
                }
                rest = after;
            }
            element.text = begin[..begin.len() - rest.len()].trim_ascii();
            rest = rest.trim_ascii_start();
            match rest.split_first() {
                Some((b';', after)) => rest = after,
                Some((b',', after)) => {
                    rest = after;
                    break;
                }
                Some(_) => return None,
                None => {
                    elements.extend(has_pair.then_some(element));
                    return Some(());
                }
            }
        }
        // RFC 9110 section 5.6.1.2: empty elements of a list are ignored.
        elements.extend(has_pair.then_some(element));
    }
}

/// The name and the value of a pair, and the rest of the text.
type Pair<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Parses `name=value`, and removes the quotes of the value. Returns `Some(None)` if there is no pair, `None`
/// if it is malformed.
fn parse_pair(text: &[u8]) -> Option<Option<Pair<'_>>> {
    let end = text.iter().position(|&b| !is_token(b)).unwrap_or(text.len());
    if end == 0 {
        return Some(None);
    }
    let (name, rest) = text.split_at(end);
    let value = rest.strip_prefix(b"=")?;
    if let Some(quoted) = value.strip_prefix(b"\"") {
        // Escapes are only skipped here: a node or a scheme with a backslash is malformed anyway.
        let (mut at, mut is_escaped) = (0, false);
        loop {
            match quoted.get(at)? {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => break,
                _ => {}
            }
            at += 1;
        }
        return Some(Some((name, &quoted[..at], &quoted[at + 1..])));
    }
    let end = value.iter().position(|&b| !is_token(b)).unwrap_or(value.len());
    (end > 0).then(|| Some((name, &value[..end], &value[end..])))
}
