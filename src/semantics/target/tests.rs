use super::*;

fn bad(path: &str) -> BadTarget {
    normalize(path).expect_err(path)
}

#[test]
fn plain_path_is_borrowed_unchanged() {
    for path in ["/", "/a", "/a/b.txt", "/a.b/..c/...", "/a//b", "//x", "/;a=b/@:!$&'()*+,=~", "*"]
    {
        assert!(matches!(normalize(path), Ok(Cow::Borrowed(p)) if p == path), "{path}");
    }
    // Also a path with a dot at the beginning of a segment.
    assert!(matches!(normalize("/.well-known/x"), Ok(Cow::Borrowed(_))));
}

#[test]
fn spellings_of_one_path_have_one_form() {
    for spelling in ["/caf\u{e9}", "/caf%C3%A9", "/caf%c3%a9", "/%63%61f%C3%A9"] {
        assert_eq!(normalize(spelling).unwrap(), "/caf\u{e9}");
    }
    assert_eq!(normalize("/%41%2D%7E").unwrap(), "/A-~");
    assert_eq!(normalize("/a%3Fb%23c").unwrap(), "/a?b#c");
    assert_eq!(normalize("/+%2B%20").unwrap(), "/++ ");
}

#[test]
fn escaped_separators_and_percents_stay_visible() {
    assert_eq!(normalize("/a%2fb").unwrap(), "/a%2Fb");
    assert_eq!(normalize("/a%5cb").unwrap(), "/a%5Cb");
    // Decoded once, never twice: it does not become the slash of the line above.
    assert_eq!(normalize("/a%252fb").unwrap(), "/a%252fb");
    assert_ne!(normalize("/a%252Fb"), normalize("/a%2Fb"));
    assert_eq!(normalize("/100%25").unwrap(), "/100%25");
}

#[test]
fn malformed_escapes_are_refused() {
    for path in ["/%", "/%4", "/%zz", "/%4g", "/a%", "/%%41", "/% 41", "/%u0041", "/%+1"] {
        assert_eq!(bad(path), BadTarget::Escape, "{path}");
    }
}

#[test]
fn control_characters_are_refused_plain_and_escaped() {
    for path in
        ["/a%00", "/a%00.html", "/%0d%0a", "/%1F", "/%7f", "/a\0", "/a\tb", "/a\x7f", "/%C2%9B"]
    {
        assert_eq!(bad(path), BadTarget::Control, "{path:?}");
    }
}

#[test]
fn dot_segments_are_refused_in_every_spelling() {
    for path in [
        "/.",
        "/..",
        "/./",
        "/../",
        "/a/..",
        "/a/.",
        "/a/../b",
        "/a/./b",
        "/../etc/passwd",
        "/%2e",
        "/%2e%2e/",
        "/%2E%2E/",
        "/.%2e/",
        "/%2e./",
        "/a/%2e%2e/b",
        "/..%2f",
        "/..%2Fadmin",
        "/%2e%2e%2f",
        "/a%2f..",
        "/a%2f..%2fb",
        "/a%2F.%2Fb",
        "/..%5c",
        "/..%5C..%5cwindows",
        "/a%5c..",
        "/public/..%2fadmin/secret",
        "/%252e%252e/",
        "/%252e%252e%252f",
        "/%25252e%25252e%25252fx",
        "/..%252f",
        "/..%255c",
        "/..;/",
        "/..;x=y/admin",
        "/.;/",
        "/..%3b/",
        "/..%253b/",
        // A malformed escape that decoding makes a valid one.
        "/a%25%2535Cb/%252e%25%2535C",
        "/%25%2532e/",
        "/%25%252532%2565/",
        "/caf%C3%A9/../x",
    ] {
        assert_eq!(bad(path), BadTarget::DotSegment, "{path}");
    }
    // Dots that are part of a name are not segments.
    for path in
        ["/...", "/a..", "/..a", "/a../b", "/%2e%2e%2e", "/a%2e", "/%2ea", "/a;..", "/x%252e"]
    {
        assert!(normalize(path).is_ok(), "{path}");
    }
}

#[test]
fn plain_backslashes_are_refused() {
    for path in ["/..\\", "/a\\b", "/\\evil.com", "/..\\..\\x"] {
        assert_eq!(bad(path), BadTarget::Backslash, "{path}");
    }
}

#[test]
fn path_that_is_not_utf_8_is_refused() {
    for path in
        ["/%c0%ae%c0%ae/", "/%c0%af", "/%e0%80%ae", "/%ff", "/%C3", "/%ed%a0%80", "/%f5%80%80%80"]
    {
        assert_eq!(bad(path), BadTarget::Utf8, "{path}");
    }
}

#[test]
fn path_without_leading_slash_is_refused() {
    for path in ["", "a", "a/b", "%2f", "**", "http://a/", "?", "%2fa"] {
        assert_eq!(bad(path), BadTarget::NotAbsolute, "{path}");
    }
}

#[test]
fn file_path_has_no_escaped_slashes() {
    let file = |raw| file_path(&normalize(raw).unwrap()).map(Cow::into_owned);
    assert_eq!(file("/").unwrap(), "");
    assert_eq!(file("/a/b").unwrap(), "a/b");
    assert_eq!(file("/100%25").unwrap(), "100%");
    assert_eq!(file("/%252f").unwrap(), "%2f");
    assert_eq!(file("/a%2fb"), Err(BadTarget::EscapedSlash));
    assert_eq!(file("/private.%5csecret.txt"), Err(BadTarget::EscapedSlash));
    assert_eq!(file("*"), Err(BadTarget::NotAbsolute));
}

#[test]
fn normal_form_of_normal_form_has_no_new_segments() {
    // Decoding a normal form once more yields the same number of segments.
    for raw in ["/a%2fb", "/%252f", "/x%25252e", "/a b%20c", "/%25"] {
        let once = normalize(raw).unwrap().into_owned();
        let twice = normalize(&once).unwrap();
        assert_eq!(once.matches('/').count(), twice.matches('/').count(), "{raw}");
    }
}

/// Decodes a path until nothing changes, and replaces backslashes by slashes.
fn decode_fully(path: &str) -> String {
    let once = percent_encoding::percent_decode_str(path).decode_utf8_lossy().replace('\\', "/");
    if once == path { once } else { decode_fully(&once) }
}

#[test]
fn no_accepted_short_path_has_dot_segment_in_any_reading() {
    let alphabet = b"/.%2eEfF5c;a";
    let mut accepted = 0;
    let step = if cfg!(miri) { 997 } else { 1 };
    for mut n in (0..alphabet.len().pow(5)).step_by(step) {
        let mut path = String::from("/");
        for _ in 0..5 {
            path.push(char::from(alphabet[n % alphabet.len()]));
            n /= alphabet.len();
        }
        let Ok(normal) = normalize(&path) else { continue };
        accepted += 1;
        for reading in [decode_fully(&path), decode_fully(&normal)] {
            let dots = reading
                .split('/')
                .map(|segment| segment.split(';').next().unwrap())
                .any(|name| matches!(name, "." | ".."));
            assert!(!dots, "{path} is accepted as {normal} and may be read as {reading}");
        }
    }
    assert!(accepted * step > 100_000, "{accepted}");
}
