use std::net::SocketAddr;

use super::*;
use crate::peer::Network;

use ClientField::{Forwarded, XForwardedFor, XRealIp};

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    headers
}

/// Returns whether `ip` is in a trusted network: 10.0.0.0/8 or fd00::/8.
fn is_trusted(ip: IpAddr) -> bool {
    ["10.0.0.0/8", "fd00::/8"].iter().any(|n| n.parse::<Network>().unwrap().contains(ip))
}

/// Returns the client as `ip`, `ip:port` or `[ip]:port`, with ` https` if that is its scheme, and the resulting
/// field. Empty without a client.
fn resolve(field: ClientField, lines: &[&str]) -> Result<(String, String), String> {
    let name = field.name();
    let mut headers = map(&lines.iter().map(|line| (name.as_str(), *line)).collect::<Vec<_>>());
    let before = headers.clone();
    let client = field.resolve(&mut headers, is_trusted).map_err(|e| {
        assert_eq!(headers, before, "nothing is changed");
        e.to_string()
    })?;
    let client = client.map_or_else(String::new, |NamedClient { ip, port, scheme }| {
        let addr =
            port.map_or_else(|| ip.to_string(), |port| SocketAddr::new(ip, port).to_string());
        addr + &scheme.map_or_else(String::new, |s| format!(" {s}"))
    });
    let left: Vec<_> = headers.get_all(&name).iter().map(|v| v.to_str().unwrap()).collect();
    Ok((client, left.join(" | ")))
}

fn ok(client: &str, left: &str) -> Result<(String, String), String> {
    Ok((client.to_owned(), left.to_owned()))
}

#[test]
fn x_forwarded_for_is_walked_from_its_end_to_the_first_untrusted() {
    let cases: [(&[&str], &str, &str); 18] = [
        (&[], "", ""),
        // The first of the list is the client, whatever it had put in front.
        (&[" , ,, 192.0.2.7, 10.0.0.2"], "192.0.2.7", "192.0.2.7, 10.0.0.2"),
        (&[""], "", ""),
        (&[" , ,"], "", ""),
        (&["192.0.2.7"], "192.0.2.7", "192.0.2.7"),
        (&["6.6.6.6, 192.0.2.7"], "192.0.2.7", "192.0.2.7"),
        (&["6.6.6.6", "192.0.2.7,10.0.0.2"], "192.0.2.7", "192.0.2.7, 10.0.0.2"),
        (&["192.0.2.7", "10.0.0.2"], "192.0.2.7", "192.0.2.7, 10.0.0.2"),
        (&["10.0.0.3, 10.0.0.2"], "10.0.0.3", "10.0.0.3, 10.0.0.2"),
        (&["192.0.2.7:4711"], "192.0.2.7:4711", "192.0.2.7:4711"),
        (&["2001:db8::1"], "2001:db8::1", "2001:db8::1"),
        (&["[2001:db8::1]"], "2001:db8::1", "[2001:db8::1]"),
        (&["[2001:db8::1]:80"], "[2001:db8::1]:80", "[2001:db8::1]:80"),
        (&["::ffff:192.0.2.7, fd00::1"], "192.0.2.7", "::ffff:192.0.2.7, fd00::1"),
        // Forged elements are not examined.
        (
            &["\"; nonsense \u{7f}".trim_end_matches('\u{7f}'), "192.0.2.7"],
            "192.0.2.7",
            "192.0.2.7",
        ),
        // The proxy at 10.0.0.2 does not know its client.
        (&["192.0.2.7, unknown, 10.0.0.2"], "10.0.0.2", "10.0.0.2"),
        (&["192.0.2.7, _hidden"], "", ""),
        (&["192.0.2.7, Unknown"], "", ""),
    ];
    for (lines, client, left) in cases {
        assert_eq!(resolve(XForwardedFor, lines), ok(client, left), "{lines:?}");
    }
}

#[test]
fn malformed_address_of_a_trusted_proxy_is_refused() {
    for bad in [
        "x",
        "192.0.2",
        "010.0.0.1",
        "192.0.2.7:",
        "192.0.2.7:x",
        "192.0.2.7:65536",
        "192.0.2.7:-1",
        "[2001:db8::1",
        "2001:db8::1]",
        "[192.0.2.7]",
        "fe80::1%eth0",
        "192.0.2.7 10.0.0.2",
        "_",
        "\"\"",
        "for=192.0.2.7",
    ] {
        for line in [bad.to_owned(), format!("{bad}, 10.0.0.2")] {
            let error = resolve(XForwardedFor, &[&line]).unwrap_err();
            assert_eq!(error, "X-Forwarded-For: an address is malformed", "{line}");
            resolve(XRealIp, &[bad]).unwrap_err();
        }
    }
}

#[test]
fn forwarded_is_parsed_by_its_grammar() {
    let cases: [(&[&str], &str, &str); 14] = [
        (&[], "", ""),
        (&["for=192.0.2.7"], "192.0.2.7", "for=192.0.2.7"),
        (
            &["for=6.6.6.6, For=\"192.0.2.7:80\";PROTO=HTTPS;by=_x;host=\"a,b;c=\\\"d\""],
            "192.0.2.7:80 https",
            "For=\"192.0.2.7:80\";PROTO=HTTPS;by=_x;host=\"a,b;c=\\\"d\"",
        ),
        (
            &["for=\"[2001:db8::1]\"; proto=http ;, for=10.0.0.2;proto=https"],
            "2001:db8::1 http",
            "for=\"[2001:db8::1]\"; proto=http ;, for=10.0.0.2;proto=https",
        ),
        (&["for=\"[2001:db8::1]:80\""], "[2001:db8::1]:80", "for=\"[2001:db8::1]:80\""),
        (&["for=\"192.0.2.7:_p\""], "192.0.2.7", "for=\"192.0.2.7:_p\""),
        (&[",, for=192.0.2.7 ,;,"], "192.0.2.7", "for=192.0.2.7"),
        (&["for=192.0.2.7", "for=10.0.0.2"], "192.0.2.7", "for=192.0.2.7, for=10.0.0.2"),
        (&["for=192.0.2.7;proto=wss"], "192.0.2.7", "for=192.0.2.7;proto=wss"),
        (&["for=192.0.2.7, for=unknown"], "", ""),
        (&["for=192.0.2.7, for=_gazonk;proto=https"], "", ""),
        (&["for=192.0.2.7, by=10.0.0.1"], "", ""),
        (&["for=192.0.2.7, for=\"_a:_b\", for=10.0.0.2"], "10.0.0.2", "for=10.0.0.2"),
        // Forged elements may be nonsense, if they follow the grammar.
        (&["for=x;for=y, for=192.0.2.7"], "192.0.2.7", "for=192.0.2.7"),
    ];
    for (lines, client, left) in cases {
        assert_eq!(resolve(Forwarded, lines), ok(client, left), "{lines:?}");
    }
}

#[test]
fn malformed_forwarded_is_refused() {
    for bad in [
        "for",
        "for=",
        "=192.0.2.7",
        "for =192.0.2.7",
        "for= 192.0.2.7",
        "for=192.0.2.7:80",
        "for=[2001:db8::1]",
        "for=\"192.0.2.7",
        "for=\"192.0.2.7\"x",
        "for=192.0.2.7 for=10.0.0.2",
        "192.0.2.7",
        "for=\"192.0.2.7\\\"",
        // A quote that the client opens and that the proxy's own quote closes.
        "for=\"x, for=\"[2001:db8::1]\"",
        // The same in elements that are examined.
        "for=\"2001:db8::1\"",
        "for=192.0.2.7;for=10.0.0.1",
        "for=10.0.0.1;proto=http;proto=https",
        "for=\"192.0.2.7:123456\"",
        "for=\"192.0.2.7:+80\"",
        "for=\"[192.0.2.7]\"",
        "for=\"192.0\\.2.7\"",
        "for=\"\"",
        "for=_",
        "for=\"_a b\"",
    ] {
        assert!(resolve(Forwarded, &[bad]).is_err(), "{bad}");
        assert!(resolve(Forwarded, &[bad, "for=10.0.0.2"]).is_err(), "{bad} in a line of its own");
    }
}

#[test]
fn x_real_ip_is_one_address() {
    assert_eq!(resolve(XRealIp, &[]), ok("", ""));
    assert_eq!(resolve(XRealIp, &["192.0.2.7"]), ok("192.0.2.7", "192.0.2.7"));
    assert_eq!(resolve(XRealIp, &["10.0.0.2"]), ok("10.0.0.2", "10.0.0.2"));
    assert_eq!(
        resolve(XRealIp, &["192.0.2.7, 10.0.0.2"]).unwrap_err(),
        "X-Real-IP: an address is malformed"
    );
    assert_eq!(
        resolve(XRealIp, &["192.0.2.7", "10.0.0.2"]).unwrap_err(),
        "X-Real-IP: it is repeated"
    );
}

#[test]
fn other_fields_that_name_a_client_are_dropped() {
    let received = [
        ("x-forwarded-for", "192.0.2.7"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("x-client.ip", "6.6.6.6"),
        ("true-client-ip", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "example.com"),
        ("accept", "*/*"),
    ];
    let mut headers = map(&received);
    XForwardedFor.resolve(&mut headers, is_trusted).unwrap();
    assert_eq!(headers, map(&[received[0], received[6], received[7], received[8]]));
    remove_client_fields(&mut headers);
    assert_eq!(headers, map(&[received[8]]));
}

#[test]
fn lists_are_bounded() {
    let hops = |n| "10.0.0.2, ".repeat(n);
    let client = |n| resolve(XForwardedFor, &[&format!("192.0.2.7, {}", hops(n))]).map(|(c, _)| c);
    assert_eq!(client(MAX_HOPS - 1), Ok("192.0.2.7".to_owned()));
    assert_eq!(client(MAX_HOPS).unwrap_err(), "X-Forwarded-For: it names too many proxies");
    // Elements that are not examined do not count.
    let forged = "6.6.6.6,".repeat(100);
    assert_eq!(resolve(XForwardedFor, &[&forged, "192.0.2.7"]), ok("192.0.2.7", "192.0.2.7"));
    let long = "x".repeat(MAX_BYTES / 2);
    resolve(XForwardedFor, &[&long, &long[9..], "192.0.2.7"]).unwrap();
    let error = resolve(XForwardedFor, &[&long, &long[8..], "192.0.2.7"]).unwrap_err();
    assert_eq!(error, "X-Forwarded-For: it is too long");
}

#[test]
fn x_forwarded_proto_is_one_scheme() {
    let read = |values: &[&str]| {
        let fields: Vec<_> = values.iter().map(|value| ("x-forwarded-proto", *value)).collect();
        x_forwarded_proto(&map(&fields))
    };
    assert_eq!(read(&[]), Ok(None));
    assert_eq!(
        (read(&["https"]), read(&["HTTP"])),
        (Ok(Some(Scheme::HTTPS)), Ok(Some(Scheme::HTTP)))
    );
    for bad in [&["https, http"][..], &["https", "https"], &[""], &["ftp"], &["https,"]] {
        read(bad).unwrap_err();
    }
}

/// Pseudo-random numbers, by xorshift.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// Returns the element that a proxy adds for a peer at `ip`, in a random format, and the port in it.
fn element(field: ClientField, ip: IpAddr, rng: &mut Rng) -> (String, Option<u16>) {
    let port = (rng.below(3) == 0).then_some(4711);
    let bracketed = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    let text = match (field, port) {
        (Forwarded, None) if ip.is_ipv4() => format!("for={ip}"),
        (Forwarded, None) => format!("for=\"{bracketed}\""),
        (Forwarded, Some(port)) => format!("proto=https;for=\"{bracketed}:{port}\""),
        (_, Some(port)) => format!("{bracketed}:{port}"),
        (_, None) if rng.below(2) == 0 => ip.to_string(),
        (_, None) => bracketed,
    };
    (text, port)
}

/// Simulates a chain of proxies: the client forges a list, and each proxy appends the address of its peer. The client is
/// found, and the list begins with it.
#[test]
fn client_is_found_for_every_forged_list_and_every_format_of_proxies() {
    let forged = [
        "6.6.6.6",
        "10.6.6.6",
        "unknown",
        "for=6.6.6.6",
        "for=10.6.6.6;proto=https",
        "",
        ",",
        "x",
        "for=\"a,b\"",
        "for=unknown",
        "fd00::6",
        "for=\"[fd00::6]\";for=\"y\"",
    ];
    let (clients, proxies) =
        (["192.0.2.7", "2001:db8::1"], ["10.0.0.1", "10.1.2.3", "fd00::1", "fd00::2"]);
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for round in 0..20_000 {
        let field = rng.pick(&[Forwarded, XForwardedFor]);
        let is_syntax = |text: &str| {
            // A malformed Forwarded is refused, which another test checks.
            field != Forwarded || parse_forwarded(text.as_bytes(), &mut Vec::new()).is_some()
        };
        let mut lines: Vec<String> = Vec::new();
        for _ in 0..rng.below(4) {
            let text = rng.pick(&forged);
            if is_syntax(text) {
                lines.push(text.to_owned());
            }
        }
        let client = rng.pick(&clients);
        let (mut from, hops) = (client, rng.below(4));
        let mut written = Vec::new();
        for hop in 0..=hops {
            let (text, port) = element(field, from.parse().unwrap(), &mut rng);
            match lines.last_mut() {
                Some(last) if rng.below(2) == 0 && !last.is_empty() => {
                    *last += rng.pick(&[", ", ",", " ,"]);
                    *last += &text;
                }
                _ => lines.push(text.clone()),
            }
            written.push((text, port));
            if hop < hops {
                from = rng.pick(&proxies);
            }
        }
        let text: Vec<&str> = lines.iter().map(String::as_str).collect();
        let name = field.name();
        let mut headers = map(&text.iter().map(|line| (name.as_str(), *line)).collect::<Vec<_>>());
        let found = field.resolve(&mut headers, is_trusted);
        let found = found.unwrap_or_else(|e| panic!("round {round}: {lines:?}: {e}"));
        let found = found.unwrap_or_else(|| panic!("round {round}: {lines:?}: no client"));
        assert_eq!(found.ip, client.parse::<IpAddr>().unwrap(), "round {round}: {lines:?}");
        assert_eq!(found.port, written[0].1, "round {round}: {lines:?}");
        let want: Vec<_> = written.iter().map(|(text, _)| text.as_str()).collect();
        // A line that begins with the client stays unchanged.
        let left = headers[&name].to_str().unwrap().replace(" ,", ",").replace(", ", ",");
        let left = left.trim_start_matches([',', ' ']);
        assert_eq!(left, want.join(","), "round {round}: {lines:?}");
        // Again, as by a second layer.
        let before = headers.clone();
        assert_eq!(field.resolve(&mut headers, is_trusted), Ok(Some(found)));
        assert_eq!(headers, before);
    }
}

#[test]
fn arbitrary_bytes_never_panic_and_leave_a_valid_list() {
    let parts: [&[u8]; 16] = [
        b"for=",
        b"\"",
        b",",
        b";",
        b"10.0.0.1",
        b"192.0.2.7",
        b"[fd00::1]",
        b":80",
        b"\\",
        b" ",
        b"=",
        b"proto=https",
        b"unknown",
        b"_x",
        b"\xff",
        b"\t",
    ];
    let mut rng = Rng(42);
    for _ in 0..50_000 {
        for field in [Forwarded, XForwardedFor, XRealIp] {
            let mut headers = HeaderMap::new();
            for _ in 0..=rng.below(2) {
                let line: Vec<u8> =
                    (0..rng.below(9)).flat_map(|_| rng.pick(&parts)).copied().collect();
                headers.append(field.name(), HeaderValue::from_bytes(&line).unwrap());
            }
            let Ok(first) = field.resolve(&mut headers, is_trusted) else { continue };
            assert_eq!(field.resolve(&mut headers, is_trusted), Ok(first));
        }
    }
}
