//! Invariant: the normal form of a path is that of a simple implementation of its definition; it is its own
//! normal form; a path in which every character is escaped has the same one; no reader, even one that
//! decodes several times, finds a segment `.` or `..` in it or in the path of its file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vestibule::semantics::target::{BadTarget, file_path, normalize};

fuzz_target!(|data: &[u8]| {
    let Ok(path) = std::str::from_utf8(data) else { return };
    let normal = normalize(path);
    let want = model(path);
    let Ok(normal) = normal else {
        assert!(want.is_err(), "{path:?} is refused, and should be {want:?}");
        return;
    };
    assert_eq!(want.as_deref(), Ok(&*normal), "{path:?}");
    if normal == "*" {
        return;
    }
    assert!(normal.starts_with('/'));
    assert_eq!(normalize(&normal).as_deref(), Ok(&*normal), "its own normal form");
    let spelling = escaped(&normal);
    assert_eq!(normalize(&spelling).as_deref(), Ok(&*normal), "as {spelling}");
    assert_no_dots(&normal);
    match file_path(&normal) {
        Ok(file) => {
            assert_no_dots(&file);
            assert!(!file.contains(['\0', '\\']));
            assert_eq!(file.matches('/').count() + 1, normal.matches('/').count());
        }
        Err(e) => {
            assert_eq!(e, BadTarget::EscapedSlash);
            assert!(normal.contains("%2F") || normal.contains("%5C"));
        }
    }
});

/// Implements the definition, one character at a time. It may report any of several faults.
fn model(path: &str) -> Result<String, ()> {
    if path == "*" {
        return Ok("*".to_owned());
    }
    if !path.starts_with('/') || path.contains('\\') {
        return Err(());
    }
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16)).ok_or(());
        match u8::try_from(digit()? * 16 + digit()?).expect("two digits") {
            b @ (b'/' | b'\\' | b'%') => bytes.extend_from_slice(format!("%{b:02X}").as_bytes()),
            b => bytes.push(b),
        }
    }
    let normal = String::from_utf8(bytes).map_err(drop)?;
    if normal.chars().any(char::is_control) || has_dots(&normal) { Err(()) } else { Ok(normal) }
}

/// Returns whether the path has dot segments for a reader that decodes any number of times, treats each
/// backslash as a slash, and removes the parameters of a segment.
fn has_dots(path: &str) -> bool {
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    let mut path = path.replace('\\', "/");
    loop {
        let mut segments = path.split('/');
        if segments.any(|s| is_dots(s) || is_dots(s.split(';').next().unwrap_or_default())) {
            return true;
        }
        let decoded = decoded_once(&path).replace('\\', "/");
        if decoded == path {
            return false;
        }
        path = decoded;
    }
}

fn assert_no_dots(path: &str) {
    assert!(!has_dots(path), "{path:?}");
}

/// Decodes the escapes of ASCII characters, and leaves malformed ones unchanged.
fn decoded_once(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let byte = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte.filter(|b| b.is_ascii() && rest.as_bytes()[at + 1] != b'+') {
            Some(b) => {
                out.push(char::from(b));
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// Returns another spelling: every byte escaped, except slashes and existing escapes.
fn escaped(normal: &str) -> String {
    let mut out = String::new();
    let mut bytes = normal.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'/' => out.push('/'),
            b'%' => {
                out.push('%');
                out.extend(bytes.by_ref().take(2).map(char::from));
            }
            b => out += &format!("%{b:02x}"),
        }
    }
    out
}
