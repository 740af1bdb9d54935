use super::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    headers
}

/// Applies `ours` to `fields`, for a client at `ip` that requested `host` by http.
fn run(ours: ForwardedFields, fields: &[(&str, &str)], ip: &str, host: &str) -> HeaderMap {
    let mut headers = map(fields);
    let host: Option<HeaderValue> = (!host.is_empty()).then(|| host.parse().unwrap());
    ours.apply(&mut headers, &peer(ip), host.as_ref());
    headers
}

/// A client at `ip`, which may be empty.
fn peer(ip: &str) -> Peer {
    let Ok(ip) = ip.parse::<IpAddr>() else { return Peer::unix() };
    Peer::tcp((ip, 5000).into(), (ip, 80).into())
}

#[test]
fn untrusted_client_has_its_forwarding_fields_replaced() {
    let lies = [
        ("forwarded", "for=6.6.6.6"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("x-forwarded-ssl", "on"),
        ("x-forwarded-prefix", "/admin"),
        ("x-real-ip", "6.6.6.6"),
        ("x-client-ip", "6.6.6.6"),
        ("true-client-ip", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("x.forwarded_proto", "https"),
        ("x_real.ip", "6.6.6.6"),
        ("proxy", "http://evil/"),
        ("accept", "*/*"),
        ("x-request-id", "1"),
    ];
    let truth = map(&[
        ("accept", "*/*"),
        ("x-request-id", "1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "example.com"),
    ]);
    assert_eq!(run(ForwardedFields::new(), &lies, "192.0.2.1", "example.com"), truth);
}

#[test]
fn lookalikes_are_dropped_in_every_mode_of_trust() {
    let lies = [
        ("x_forwarded_for", "6.6.6.6"),
        ("x-forwarded-for", "198.51.100.7"),
        ("x-forwarded_host", "evil"),
        ("content_length", "5"),
        ("transfer.encoding", "chunked"),
        ("x_request_id", "1"),
    ];
    for (trust, of_client) in
        [(Trust::Append, "198.51.100.7, 192.0.2.1"), (Trust::Keep, "198.51.100.7")]
    {
        let headers = run(ForwardedFields::new().trust(trust), &lies, "192.0.2.1", "");
        assert_eq!(headers["x-forwarded-for"], of_client);
        assert_eq!(headers["x_request_id"], "1");
        let alike = headers.keys().filter(|n| n.as_str().contains(['_', '.'])).count();
        assert_eq!(alike, 1, "{headers:?}");
    }
}

#[test]
fn trusted_proxy_has_its_lists_continued() {
    let received = [
        ("x-forwarded-for", "198.51.100.7"),
        ("x-forwarded-for", ""),
        ("x-forwarded-for", "198.51.100.8, 198.51.100.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "example.com"),
        ("x-real-ip", "198.51.100.7"),
        ("forwarded", "for=198.51.100.7;proto=https"),
        ("proxy", "http://evil/"),
    ];
    let append = ForwardedFields::new().trust(Trust::Append);
    let want = map(&[
        ("x-forwarded-for", "198.51.100.7, 198.51.100.8, 198.51.100.9, 10.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "example.com"),
        ("x-real-ip", "198.51.100.7"),
        ("forwarded", "for=198.51.100.7;proto=https, for=10.0.0.1;host=inner;proto=http"),
    ]);
    assert_eq!(run(append, &received, "10.0.0.1", "inner"), want);
}

#[test]
fn trusted_proxy_without_fields_is_the_client() {
    let got = run(ForwardedFields::new().trust(Trust::Append), &[], "10.0.0.1", "example.com");
    assert_eq!(got["x-forwarded-for"], "10.0.0.1");
    assert_eq!(got["x-forwarded-proto"], "http");
    assert_eq!(got["x-forwarded-host"], "example.com");
    assert!(!got.contains_key("forwarded"));
}

#[test]
fn keep_mode_writes_nothing_and_still_drops_proxy() {
    let received = [("x-forwarded-for", "1.2.3.4"), ("proxy", "http://evil/")];
    let got = run(ForwardedFields::new().trust(Trust::Keep), &received, "10.0.0.1", "example.com");
    assert_eq!(got, map(&received[..1]));
}

#[test]
fn peer_without_address_is_unknown() {
    let got = run(ForwardedFields::new().rfc7239(true), &[("x-forwarded-for", "6.6.6.6")], "", "");
    let want = map(&[("forwarded", "for=unknown;proto=http"), ("x-forwarded-proto", "http")]);
    assert_eq!(got, want);
}

#[test]
fn forwarded_quotes_what_is_not_a_token() {
    let cases = [
        ("192.0.2.1", "a.example", "for=192.0.2.1;host=a.example;proto=http"),
        ("2001:db8::1", "a:8080", r#"for="[2001:db8::1]";host="a:8080";proto=http"#),
        ("::1", "[::1]", r#"for="[::1]";host="[::1]";proto=http"#),
        ("::ffff:192.0.2.1", "x", "for=192.0.2.1;host=x;proto=http"),
        ("::1", r#"a";for=b\"#, r#"for="[::1]";host="a\";for=b\\";proto=http"#),
    ];
    for (ip, host, want) in cases {
        let got = run(ForwardedFields::new().rfc7239(true), &[], ip, host);
        assert_eq!(got["forwarded"], want);
    }
}

#[test]
fn longest_addresses_fit_the_buffer() {
    let all_ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let got = run(ForwardedFields::new().rfc7239(true), &[], all_ones, "");
    assert_eq!(got["x-forwarded-for"], all_ones);
    assert_eq!(got["forwarded"], format!("for=\"[{all_ones}]\";proto=http"));
    assert_eq!(
        run(ForwardedFields::new(), &[], "255.255.255.255", "")["x-forwarded-for"].len(),
        15
    );
}

#[test]
fn named_client_is_sent_alone_or_in_front_of_its_hop() {
    let received = [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.7")];
    let named = peer("10.0.0.1").forwarded_for([192, 0, 2, 7].into(), None);
    let named = named.forwarded_proto(Scheme::HTTPS);
    let run = |trust| {
        let mut headers = map(&received);
        ForwardedFields::new().rfc7239(true).trust(trust).apply(&mut headers, &named, None);
        headers
    };
    let append = map(&[
        ("x-forwarded-for", "192.0.2.7, 10.0.0.1"),
        ("forwarded", "for=192.0.2.7, for=10.0.0.1;proto=http"),
        ("x-forwarded-proto", "https"),
    ]);
    assert_eq!(run(Trust::Append), append);
    let replace = map(&[
        ("forwarded", "for=192.0.2.7;proto=https"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
    ]);
    assert_eq!(run(Trust::Replace), replace);
}
