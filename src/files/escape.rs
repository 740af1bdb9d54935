//! Percent-encoding of paths and targets (RFC 3986 section 2.1).

use std::fmt::Write;

/// Escapes one name, or several with slashes between them. Each byte stands for itself, so `%` is escaped too.
pub(super) fn escape_path(path: &[u8]) -> String {
    escape(path, |b, _| b.is_ascii_alphanumeric() || b"/-._~".contains(&b))
}

/// Escapes a path with its query that may be escaped already: escape sequences and delimiters are kept. A `#` is escaped: the
/// target of a request has no fragment, so it is part of a name.
pub(super) fn escape_target(target: &[u8]) -> String {
    escape(target, |b, rest| match b {
        b'%' => matches!(rest, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()),
        _ => b.is_ascii_graphic() && !b"\"#<>[\\]^`{|}".contains(&b),
    })
}

/// Escapes the bytes that `is_allowed` rejects. It gets each byte and the bytes after it.
fn escape(text: &[u8], is_allowed: impl Fn(u8, &[u8]) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, &b) in text.iter().enumerate() {
        if is_allowed(b, &text[i + 1..]) {
            out.push(b.into());
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_path_is_valid_target() {
        let all: Vec<u8> = (0..=255).collect();
        for escaped in [escape_path(&all), escape_target(&all)] {
            assert!(format!("/{escaped}").parse::<http::Uri>().is_ok(), "{escaped}");
        }
    }

    #[test]
    fn escape_changes_only_unescaped_characters() {
        for (written, escaped) in [
            ("/a%20b/100%25.txt?q=%3D&r=(1)", "/a%20b/100%25.txt?q=%3D&r=(1)"),
            ("/a b/100%.txt", "/a%20b/100%25.txt"),
            ("/%", "/%25"),
            ("/%4", "/%254"),
            ("/%%34", "/%25%34"),
            ("/%2g%zz%Af", "/%252g%25zz%Af"),
            ("/\u{e9}\\", "/%C3%A9%5C"),
        ] {
            assert_eq!(escape_target(written.as_bytes()), escaped);
        }
        assert_eq!(escape_path(b"a%20b/c?d#e"), "a%2520b/c%3Fd%23e");
    }
}
