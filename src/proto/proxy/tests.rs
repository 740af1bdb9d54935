//! Vectors of both versions: complete, byte by byte, and with bytes behind them.

use super::*;

fn addresses(client: &str, destination: &str) -> Option<ProxyAddresses> {
    Some(ProxyAddresses {
        client: client.parse().unwrap(),
        destination: destination.parse().unwrap(),
    })
}

/// Parses `bytes` in every cut in two, and with bytes behind them. All must agree.
fn parse_all(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let mut input = BytesMut::from(bytes);
    let whole = parse(&mut input);
    if let Ok(Some(_)) = whole {
        assert!(input.is_empty(), "it is taken whole");
        let mut more = BytesMut::from(&[bytes, b"rest"].concat()[..]);
        assert_eq!(parse(&mut more), whole);
        assert_eq!(&more[..], b"rest");
    }
    for cut in 0..bytes.len() {
        let mut input = BytesMut::from(&bytes[..cut]);
        let first = parse(&mut input);
        if first != Ok(None) {
            assert_eq!(first, whole, "cut at {cut}");
            continue;
        }
        assert_eq!(&input[..], &bytes[..cut], "nothing is taken of a part");
        input.extend_from_slice(&bytes[cut..]);
        assert_eq!(parse(&mut input), whole, "cut at {cut}");
    }
    whole
}

#[test]
fn lines_of_version_1_have_addresses_or_none() {
    for (line, expected) in [
        ("TCP4 192.0.2.1 198.51.100.2 56324 443", addresses("192.0.2.1:56324", "198.51.100.2:443")),
        (
            "TCP4 255.255.255.255 255.255.255.255 65535 0",
            addresses("255.255.255.255:65535", "255.255.255.255:0"),
        ),
        ("TCP6 2001:db8::1 ::1 1 80", addresses("[2001:db8::1]:1", "[::1]:80")),
        ("UNKNOWN", None),
        ("UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535", None),
    ] {
        let header = parse_all(format!("PROXY {line}\r\n").as_bytes()).unwrap().unwrap();
        assert_eq!((header.version, header.addresses), (Version::V1, expected), "{line}");
    }
}

#[test]
fn malformed_lines_of_version_1_are_faults() {
    for line in [
        "",
        "TCP4",
        "TCP5 1.1.1.1 2.2.2.2 1 2",
        "tcp4 1.1.1.1 2.2.2.2 1 2",
        "TCP4 1.1.1.1 2.2.2.2 1",
        "TCP4 1.1.1.1 2.2.2.2 1 2 3",
        "TCP4  1.1.1.1 2.2.2.2 1 2",
        "TCP4 1.1.1.1 2.2.2.2 1 65536",
        "TCP4 1.1.1.1 2.2.2.2 +1 2",
        "TCP4 1.1.1.1 2.2.2.2 01 2",
        "TCP4 1.1.1.1 2.2.2.2 1 ",
        "TCP4 1.1.1 2.2.2.2 1 2",
        "TCP4 ::1 ::2 1 2",
        "TCP6 1.1.1.1 2.2.2.2 1 2",
    ] {
        let bytes = format!("PROXY {line}\r\n");
        assert_eq!(parse_all(bytes.as_bytes()), Err(Fault::Line), "{line}");
    }
    assert_eq!(parse_all(b"PROXY UNKNOWN\n"), Err(Fault::Line), "LF alone");
    for other in ["GET / HTTP/1.1\r\n", "PROXYTCP4 ", "proxy ", "\r\n\r\n\0\r\nQUIX\n"] {
        assert_eq!(parse_all(other.as_bytes()), Err(Fault::Signature), "{other:?}");
    }
}

#[test]
fn line_of_version_1_ends_at_its_bound() {
    let line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16));
    assert!(parse_all(line(MAX_V1).as_bytes()).unwrap().is_some());
    assert_eq!(parse_all(line(MAX_V1 + 1).as_bytes()), Err(Fault::LineTooLong));
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 with this command, family and content.
fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &len, content].concat()
}

const INET: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];

#[test]
fn headers_of_version_2_have_addresses_or_none() {
    let inet6 = {
        let mut all = [0; 36];
        (all[15], all[31], all[33], all[35]) = (1, 2, 80, 90);
        all
    };
    for (bytes, expected) in [
        (v2(0x21, 0x11, &INET), addresses("192.0.2.1:56324", "198.51.100.2:443")),
        (v2(0x21, 0x21, &inet6), addresses("[::1]:80", "[::2]:90")),
        (v2(0x21, 0x31, &[b'x'; 216]), None),
        (v2(0x21, 0x00, b""), None),
        (v2(0x20, 0x00, b""), None),
        (v2(0x20, 0x11, &INET), None),
        (v2(0x20, 0x77, b"whatever"), None),
    ] {
        let header = parse_all(&bytes).unwrap().unwrap();
        assert_eq!((header.version, header.addresses), (Version::V2, expected), "{bytes:?}");
    }
}

#[test]
fn malformed_headers_of_version_2_are_faults() {
    for (bytes, fault) in [
        (v2(0x11, 0x11, &INET), Fault::Kind),
        (v2(0x22, 0x11, &INET), Fault::Kind),
        (v2(0x21, 0x12, &INET), Fault::Kind),
        (v2(0x21, 0x41, &INET), Fault::Kind),
        (v2(0x21, 0x11, &INET[..11]), Fault::Length),
        (v2(0x21, 0x21, &INET), Fault::Length),
        (v2(0x21, 0x11, &[0; MAX_V2 - 15]), Fault::Length),
        (v2(0x21, 0x11, &[&INET[..], &[4, 0]].concat()), Fault::Tlv),
        (v2(0x21, 0x11, &[&INET[..], &[4, 0, 2, 0]].concat()), Fault::Tlv),
    ] {
        assert_eq!(parse_all(&bytes), Err(fault), "{bytes:?}");
    }
}

#[test]
fn extensions_are_kept_in_order() {
    let tlvs = [(2, Bytes::from("example.com")), (4, Bytes::new()), (2, Bytes::from("other"))];
    let mut out = BytesMut::new();
    encode_with_tlvs(addresses("192.0.2.1:1", "192.0.2.2:2").as_ref(), &tlvs, &mut out);
    let header = parse_all(&out).unwrap().unwrap();
    assert_eq!(header.tlvs.iter().collect::<Vec<_>>(), tlvs);
    assert_eq!(header.tlvs.get(2).unwrap(), "example.com");
    assert_eq!(header.tlvs.get(9), None);
    // Not more than a receiver accepts.
    let large = [(1, Bytes::from(vec![0; 4000])), (2, Bytes::from(vec![0; 200]))];
    let mut out = BytesMut::new();
    encode_with_tlvs(None, &large, &mut out);
    assert!(out.len() <= MAX_V2);
    assert!(parse_all(&out).unwrap().is_some());
}

#[test]
fn encoded_addresses_are_parsed_again() {
    for (client, destination, expected) in [
        ("192.0.2.1:1", "192.0.2.2:65535", None),
        ("[2001:db8::1]:1", "[::2]:2", None),
        ("192.0.2.1:1", "[::2]:2", addresses("[::ffff:192.0.2.1]:1", "[::2]:2")),
        ("[::1]:1", "192.0.2.2:2", addresses("[::1]:1", "[::ffff:192.0.2.2]:2")),
        ("[::1]:1", "[::ffff:192.0.2.2]:2", None),
        ("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2", addresses("192.0.2.1:1", "192.0.2.2:2")),
    ] {
        let sent = addresses(client, destination);
        for version in [Version::V1, Version::V2] {
            let mut out = BytesMut::new();
            encode(version, sent.as_ref(), &mut out);
            let header = parse_all(&out).unwrap().unwrap();
            assert_eq!((header.version, header.addresses), (version, expected.or(sent)));
        }
    }
    for version in [Version::V1, Version::V2] {
        let mut out = BytesMut::new();
        encode(version, None, &mut out);
        assert_eq!(parse_all(&out).unwrap().unwrap().addresses, None);
    }
}

#[test]
fn checksum_is_verified_wherever_it_stands() {
    for (before, behind) in
        [(&b""[..], &b""[..]), (b"\x04\0\0", b""), (b"\x02\0\x01a", b"\x04\0\x01b")]
    {
        let content = [&INET[..], before, b"\x03\0\x04\0\0\0\0", behind].concat();
        let mut bytes = v2(0x21, 0x11, &content);
        let at = bytes.len() - behind.len() - 4;
        let crc = crc32c::crc32c(&[&bytes]).to_be_bytes();
        assert_eq!(parse_all(&bytes), Err(Fault::Checksum));
        bytes[at..at + 4].copy_from_slice(&crc);
        let header = parse_all(&bytes).unwrap().unwrap();
        assert_eq!(header.addresses, addresses("192.0.2.1:56324", "198.51.100.2:443"));
        for changed in 16..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[changed] ^= 1;
            assert!(parse_all(&bytes).is_err() || changed == at - 3, "byte {changed}");
        }
    }
    let short = v2(0x21, 0x11, &[&INET[..], b"\x03\0\x03\0\0\0"].concat());
    assert_eq!(parse_all(&short), Err(Fault::Tlv));
    let local = v2(0x20, 0x11, &[&INET[..], b"\x03\0\x04\0\0\0\0"].concat());
    assert!(parse_all(&local).unwrap().is_some(), "nothing of it counts");
}

#[test]
fn start_of_a_header_is_known_by_its_first_bytes() {
    for (bytes, expected) in [
        (&b""[..], None),
        (b"PROXY", None),
        (b"PROXY ", Some(true)),
        (b"PROXY TCP9", Some(true)),
        (b"PROXYX", Some(false)),
        (b"PRI * HTTP/2.0", Some(false)),
        (b"\r\n", None),
        (b"\r\nGET", Some(false)),
        (&SIGNATURE[..11], None),
        (SIGNATURE, Some(true)),
        (b"\x16\x03\x01", Some(false)),
    ] {
        assert_eq!(starts_header(bytes), expected, "{bytes:?}");
    }
}
