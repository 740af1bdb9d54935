//! Path patterns: literal segments, `{param}` and `{*rest}`.

use std::{borrow::Cow, sync::Arc};

use crate::semantics::target::{self, BadTarget};

/// A parsed path pattern: the segments behind its first slash.
#[derive(Debug)]
pub(super) struct Pattern(Vec<Segment>);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// In normal form.
    Literal(Box<str>),
    /// One segment that is not empty.
    Param(Arc<str>),
    /// All that is left of the path, at least one byte. Always the last segment.
    Rest(Arc<str>),
}

/// The reason why a path pattern is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPattern {
    #[error("a pattern must start with a `/`")]
    NoSlash,
    #[error("a query is no part of a pattern")]
    Query,
    #[error(
        "a segment must not start with `:` or `*`; a parameter is written `{{name}}`, the rest of \
         a path `{{*name}}`, and the literal characters `%3A` and `%2A`"
    )]
    OldParam,
    #[error(
        "a parameter must be a whole segment, as in `/files/{{name}}`; literal braces are written \
         `{{{{` and `}}}}`"
    )]
    PartialParam,
    #[error("a parameter needs a name without braces, `*` and `/`")]
    BadName,
    #[error("two parameters have the same name")]
    DuplicateName,
    #[error("`{{*name}}` must be the last segment")]
    RestNotLast,
    #[error("a prefix must not have `{{*name}}` in it: all below the prefix is matched anyway")]
    RestInPrefix,
    #[error("a prefix must not have empty segments")]
    EmptyInPrefix,
    #[error("{0}")]
    Path(#[from] BadTarget),
}

impl Pattern {
    /// Parses the pattern of a whole path.
    pub(super) fn parse(pattern: &str) -> Result<Self, BadPattern> {
        let path = pattern.strip_prefix('/').ok_or(BadPattern::NoSlash)?;
        if path.contains(['?', '#']) {
            return Err(BadPattern::Query);
        }
        let mut segments = Vec::new();
        for segment in path.split('/') {
            if matches!(segments.last(), Some(Segment::Rest(_))) {
                return Err(BadPattern::RestNotLast);
            }
            let segment = Segment::parse(segment)?;
            let is_known = |name| segments.iter().any(|s: &Segment| s.name() == Some(name));
            if segment.name().is_some_and(is_known) {
                return Err(BadPattern::DuplicateName);
            }
            segments.push(segment);
        }
        Ok(Self(segments))
    }

    /// Parses the pattern of a prefix. One slash at its end is ignored; `/` has no segments.
    pub(super) fn parse_prefix(pattern: &str) -> Result<Self, BadPattern> {
        if pattern == "/" {
            return Ok(Self(Vec::new()));
        }
        let parsed = Self::parse(pattern.strip_suffix('/').unwrap_or(pattern))?;
        for segment in &parsed.0 {
            match segment {
                Segment::Rest(_) => return Err(BadPattern::RestInPrefix),
                Segment::Literal(text) if text.is_empty() => return Err(BadPattern::EmptyInPrefix),
                Segment::Literal(_) | Segment::Param(_) => {}
            }
        }
        Ok(parsed)
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.0
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, BadPattern> {
        if text.starts_with([':', '*']) {
            return Err(BadPattern::OldParam);
        }
        // `{{` at the start is a literal brace.
        if text.starts_with('{') && !text.starts_with("{{") {
            let inner = text[1..].strip_suffix('}').ok_or(BadPattern::PartialParam)?;
            return match inner.strip_prefix('*') {
                Some(name) => Ok(Self::Rest(parse_name(name)?)),
                None => Ok(Self::Param(parse_name(inner)?)),
            };
        }
        let literal = unescape_braces(text)?;
        let path = format!("/{literal}");
        Ok(Self::Literal(target::normalize(&path)?[1..].into()))
    }

    pub(super) fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Literal(_) => None,
            Self::Param(name) | Self::Rest(name) => Some(name),
        }
    }
}

fn parse_name(name: &str) -> Result<Arc<str>, BadPattern> {
    if name.is_empty() || name.contains(['{', '}', '*']) {
        return Err(BadPattern::BadName);
    }
    Ok(name.into())
}

/// Turns `{{` into `{` and `}}` into `}`.
fn unescape_braces(text: &str) -> Result<Cow<'_, str>, BadPattern> {
    if !text.contains(['{', '}']) {
        return Ok(text.into());
    }
    let mut literal = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if matches!(c, '{' | '}') && chars.next() != Some(c) {
            return Err(BadPattern::PartialParam);
        }
        literal.push(c);
    }
    Ok(literal.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Segment {
        Segment::Literal(text.into())
    }

    #[test]
    fn pattern_is_split_into_literals_and_parameters() {
        let parse = |pattern| Pattern::parse(pattern).unwrap().0;
        assert_eq!(parse("/"), [literal("")]);
        assert_eq!(parse("/a//b/"), [literal("a"), literal(""), literal("b"), literal("")]);
        let (x, y) = (Segment::Param("x".into()), Segment::Rest("y".into()));
        assert_eq!(parse("/a/{x}/{*y}"), [literal("a"), x, y]);
        assert_eq!(parse("/{{x}}/a{{b/{{{{"), [literal("{x}"), literal("a{b"), literal("{{")]);
    }

    #[test]
    fn literal_segment_is_kept_in_normal_form() {
        let parse = |pattern| Pattern::parse(pattern).unwrap().0;
        assert_eq!(parse("/a b/ü"), parse("/a%20b/%C3%BC"));
        assert_eq!(parse("/a%2fb/100%25"), [literal("a%2Fb"), literal("100%25")]);
        assert_eq!(parse("/%3Aid/%2a"), [literal(":id"), literal("*")]);
    }

    #[test]
    fn prefix_ignores_one_slash_at_its_end() {
        let parse = |pattern| Pattern::parse_prefix(pattern).unwrap().0;
        assert_eq!(parse("/"), []);
        assert_eq!(parse("/a/"), [literal("a")]);
        assert_eq!(parse("/{x}/b"), [Segment::Param("x".into()), literal("b")]);
    }

    #[test]
    fn invalid_patterns_are_refused() {
        for (pattern, error) in [
            ("", BadPattern::NoSlash),
            ("a", BadPattern::NoSlash),
            ("/a?b", BadPattern::Query),
            ("/:id", BadPattern::OldParam),
            ("/a/*rest", BadPattern::OldParam),
            ("/{}", BadPattern::BadName),
            ("/{*}", BadPattern::BadName),
            ("/{a{b}", BadPattern::BadName),
            ("/{a}.html", BadPattern::PartialParam),
            ("/v{a}", BadPattern::PartialParam),
            ("/a}", BadPattern::PartialParam),
            ("/{a", BadPattern::PartialParam),
            ("/{a}/{a}", BadPattern::DuplicateName),
            ("/{a}/{*a}", BadPattern::DuplicateName),
            ("/{*a}/b", BadPattern::RestNotLast),
            ("/{*a}/", BadPattern::RestNotLast),
            ("/a/../b", BadPattern::Path(BadTarget::DotSegment)),
            ("/..%2fa", BadPattern::Path(BadTarget::DotSegment)),
            ("/100%", BadPattern::Path(BadTarget::Escape)),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap_err(), error, "{pattern}");
        }
        for (prefix, error) in [
            ("", BadPattern::NoSlash),
            ("//", BadPattern::EmptyInPrefix),
            ("/a//b", BadPattern::EmptyInPrefix),
            ("/a/{*rest}", BadPattern::RestInPrefix),
        ] {
            assert_eq!(Pattern::parse_prefix(prefix).unwrap_err(), error, "{prefix}");
        }
    }
}
