//! `PathPattern`: a pattern of paths with named parts, and the target that is built from them.

use std::fmt;

use super::normalize;

/// A pattern of paths, such as `/articles/{id}` or `/old/{*rest}`, and the target that a matching path becomes, such as
/// `/new/{rest}`.
///
/// `{name}` is one segment that is not empty, `{*name}` at the end is the rest of the path, which may be empty. The other
/// segments are compared in the [normal form](normalize), so `/%6fld/a` matches `/old/{x}`; the named parts are copied as
/// the client sent them. In the query of the target `&`, `+`, `;` and `=` of a named part are escaped, so that a client can
/// neither add nor change other parameters. A path without a normal form, or whose normal form has other segments, matches
/// nothing.
///
/// ```
/// use vestibule::semantics::target::PathPattern;
///
/// let pattern = PathPattern::new("/old/{year}/{*rest}", "/archive/{rest}?year={year}").unwrap();
/// assert_eq!(pattern.apply("/old/2024/a/b%20c").unwrap(), "/archive/a/b%20c?year=2024");
/// assert_eq!(pattern.apply("/new"), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<Segment>,
    /// The index of the name of the rest.
    has_rest: bool,
    target: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Named,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// The named part with this index.
    Part(usize),
    /// The same in the query of the target.
    QueryPart(usize),
}

/// Characters of a path that have a meaning in a query of parameters.
const QUERY_DELIMITERS: [(char, &str); 4] =
    [('&', "%26"), ('+', "%2B"), (';', "%3B"), ('=', "%3D")];

/// A text is not a valid pattern or target of a [`PathPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid pattern: {reason}")]
pub struct InvalidPattern {
    text: String,
    reason: &'static str,
}

impl PathPattern {
    /// Parses a pattern and a target: a path, or a URL whose host has no named parts.
    ///
    /// # Errors
    /// [`InvalidPattern`] if either is malformed.
    pub fn new(pattern: &str, target: &str) -> Result<Self, InvalidPattern> {
        let invalid = |text: &str, reason| InvalidPattern { text: text.to_owned(), reason };
        let (segments, names, has_rest) =
            parse_pattern(pattern).map_err(|reason| invalid(pattern, reason))?;
        let target = parse_target(target, &names).map_err(|reason| invalid(target, reason))?;
        Ok(Self { segments, has_rest, target })
    }

    /// The same for a target on the same host: neither a URL nor with a fragment, which is not part of a request's target.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "for the layer that rewrites"))]
    pub(crate) fn new_path(pattern: &str, target: &str) -> Result<Self, InvalidPattern> {
        if !target.starts_with('/') || target.contains('#') {
            let (text, reason) = (target.to_owned(), "it is not a path with an optional query");
            return Err(InvalidPattern { text, reason });
        }
        Self::new(pattern, target)
    }

    /// Returns the target of a path; `None` if the path does not match, or if the target would be a URL of another host.
    pub fn apply(&self, path: &str) -> Option<String> {
        let parts = self.parts(path)?;
        let mut target = String::new();
        for piece in &self.target {
            match piece {
                Piece::Literal(text) => target.push_str(text),
                Piece::Part(i) => target.push_str(parts[*i]),
                Piece::QueryPart(i) => push_escaped(&mut target, parts[*i]),
            }
        }
        // Browsers interpret `//host` and `/\host` as another host, which a named part could produce.
        let names_host = target.starts_with("//") || target.starts_with("/\\");
        (!names_host).then_some(target)
    }

    /// Returns the named parts of a path.
    fn parts<'a>(&self, path: &'a str) -> Option<Vec<&'a str>> {
        let normal = normalize(path).ok()?;
        let (raw, normal) = (path.strip_prefix('/')?, normal.strip_prefix('/')?);
        if raw.matches('/').count() != normal.matches('/').count() {
            return None;
        }
        let mut parts = Vec::new();
        let (mut raw_left, mut normal_left) = (Some(raw), Some(normal));
        for segment in &self.segments {
            let (raw, raw_rest) = split(raw_left?);
            let (normal, normal_rest) = split(normal_left?);
            match segment {
                Segment::Literal(text) if text == normal => {}
                Segment::Named if !normal.is_empty() => parts.push(raw),
                Segment::Literal(_) | Segment::Named => return None,
            }
            (raw_left, normal_left) = (raw_rest, normal_rest);
        }
        match (self.has_rest, raw_left) {
            (true, Some(rest)) => parts.push(rest),
            (false, None) => {}
            _ => return None,
        }
        Some(parts)
    }
}

/// Appends a part of a path to the query of a target. Its other escapes are kept.
fn push_escaped(target: &mut String, part: &str) {
    for c in part.chars() {
        match QUERY_DELIMITERS.iter().find(|(delimiter, _)| *delimiter == c) {
            Some((_, escaped)) => target.push_str(escaped),
            None => target.push(c),
        }
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(segment, rest)| (segment, Some(rest)))
}

type Parsed = (Vec<Segment>, Vec<String>, bool);

fn parse_pattern(pattern: &str) -> Result<Parsed, &'static str> {
    let path = pattern.strip_prefix('/').ok_or("it does not begin with a slash")?;
    let (mut segments, mut names, mut has_rest) = (Vec::new(), Vec::new(), false);
    for segment in path.split('/') {
        if has_rest {
            return Err("something follows the rest of the path");
        }
        let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        let Some(name) = name else {
            if segment.contains(['{', '}', '?', '#', '%']) {
                return Err("a segment is a name in braces, or a text without any of {}?#%");
            }
            segments.push(Segment::Literal(segment.to_owned()));
            continue;
        };
        let bare = name.strip_prefix('*').unwrap_or(name);
        if bare.is_empty() || !bare.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err("a name has letters, digits and underscores");
        }
        if names.iter().any(|known| known == bare) {
            return Err("a name stands twice");
        }
        names.push(bare.to_owned());
        has_rest = name.starts_with('*');
        if !has_rest {
            segments.push(Segment::Named);
        }
    }
    Ok((segments, names, has_rest))
}

fn parse_target(target: &str, names: &[String]) -> Result<Vec<Piece>, &'static str> {
    let path_at = match target.find("://") {
        None if target.starts_with('/') && !target.starts_with("//") => 0,
        None => return Err("it is neither a path nor an URL"),
        Some(at) => {
            let host = &target[at + 3..];
            at + 3 + host.find('/').ok_or("an URL needs a path")?
        }
    };
    if !target.bytes().all(|b| b.is_ascii_graphic()) || target[..path_at].contains(['{', '}']) {
        return Err("it has named parts in its host, or bytes that no URL has");
    }
    let (mut pieces, mut rest, mut is_query) = (Vec::new(), target, false);
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("a brace is not closed")?;
        let part = names.iter().position(|known| known == name);
        let part = part.ok_or("the pattern has no part with this name")?;
        is_query |= literal.contains('?');
        pieces.push(Piece::Literal(literal.to_owned()));
        pieces.push(if is_query { Piece::QueryPart(part) } else { Piece::Part(part) });
        rest = after;
    }
    pieces.push(Piece::Literal(rest.to_owned()));
    Ok(pieces)
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Named => write!(f, "/{{}}")?,
            }
        }
        if self.has_rest { write!(f, "/{{*}}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_becomes_its_target() {
        for (pattern, target, path, want) in [
            ("/", "/home", "/", Some("/home")),
            ("/a", "/b", "/a", Some("/b")),
            ("/a", "/b", "/a/", None),
            ("/a/", "/b", "/a/", Some("/b")),
            ("/a", "/b", "/%61", Some("/b")),
            ("/{x}", "/b/{x}", "/%61", Some("/b/%61")),
            ("/{x}", "/b/{x}", "/", None),
            ("/{x}/{y}", "/{y}/{x}", "/1/2", Some("/2/1")),
            ("/a/{*rest}", "/{rest}", "/a/b/c", Some("/b/c")),
            ("/a/{*rest}", "/{rest}", "/a/", Some("/")),
            ("/a/{*rest}", "/{rest}", "/a", None),
            ("/{*rest}", "https://b.example/{rest}", "/x", Some("https://b.example/x")),
            ("/{*rest}", "https://b.example/{rest}", "/@c", Some("https://b.example/@c")),
            ("/caf\u{e9}", "/b", "/caf%C3%A9", Some("/b")),
            ("/a/b", "/c", "/a/../a/b", None),
            ("/a/{x}", "/c/{x}", "/a/%2e%2e", None),
        ] {
            let pattern = PathPattern::new(pattern, target).unwrap();
            assert_eq!(pattern.apply(path).as_deref(), want, "{pattern} {path}");
        }
    }

    #[test]
    fn part_in_a_query_cannot_add_a_parameter() {
        let pattern =
            PathPattern::new("/v1/{id}/{*rest}", "/{id}?id={id}&rest={rest}#{id}").unwrap();
        let target = pattern.apply("/v1/7&admin=1/a+b;c/%26d").unwrap();
        assert_eq!(target, "/7&admin=1?id=7%26admin%3D1&rest=a%2Bb%3Bc/%26d#7%26admin%3D1");
    }

    #[test]
    fn path_never_becomes_another_host() {
        let rest = PathPattern::new("/a/{*rest}", "/{rest}").unwrap();
        for path in ["/a//evil.example", "/a//", "/a/\\evil.example", "/a/%2fevil.example"] {
            let target = rest.apply(path).unwrap_or_default();
            assert!(!target.starts_with("//") && !target.starts_with("/\\"), "{path}: {target}");
        }
    }

    #[test]
    fn invalid_pattern_is_refused() {
        for pattern in
            ["", "a", "/{", "/{}", "/{a b}", "/{*}", "/{*a}/b", "/x{a}", "/{a}/{a}", "/a?b", "/%61"]
        {
            assert!(PathPattern::new(pattern, "/").is_err(), "{pattern}");
        }
        for target in [
            "",
            "b",
            "//b",
            "{a}",
            "https://b",
            "https://{a}/",
            "/{b}",
            "/{a",
            "/a b",
            "/\r\n",
            "{a}://b/",
        ] {
            assert!(PathPattern::new("/{a}", target).is_err(), "{target}");
        }
    }
}
