//! `Cache-Control` of requests and responses, and `CDN-Cache-Control` (RFC 9213).
//!
//! A malformed directive restricts and never permits: `max-age=x` means no freshness, `no-store=1` is `no-store`, and
//! a field with an unclosed quote is `no-store`, since the directives after the quote are lost.

use http::{HeaderMap, HeaderName, header};

use super::{
    directives::{self, Argument, Directive, MAX_SECONDS},
    structured::{self, Item},
};

/// The targeted field of caches in front of an origin (RFC 9213 section 3.1).
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The fields to which `no-cache` or `private` applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldNames {
    /// The whole response: the directive has no list, or one that cannot be read.
    All,
    /// These fields only.
    Listed(Vec<HeaderName>),
}

/// The directives of a response for a shared cache.
///
/// Times are in seconds, at most 2^31.
///
/// ```
/// use http::{HeaderMap, header::CACHE_CONTROL};
/// use vestibule::semantics::cache::ResponseControl;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(CACHE_CONTROL, r#"max-age="60", no-store"#.parse().unwrap());
/// let control = ResponseControl::of(&headers);
/// assert_eq!((control.max_age, control.no_store), (Some(60), true));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseControl {
    /// `max-age`; 0 if its value is malformed, or if there are several that differ (RFC 9111 section 4.2.1).
    pub max_age: Option<u64>,
    /// `s-maxage`, in the same way.
    pub s_maxage: Option<u64>,
    /// `stale-while-revalidate` (RFC 5861 section 3).
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error` (RFC 5861 section 4).
    pub stale_if_error: Option<u64>,
    /// `no-cache`.
    pub no_cache: Option<FieldNames>,
    /// `private`.
    pub private: Option<FieldNames>,
    /// `no-store`.
    pub no_store: bool,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// Whether the directives come from `CDN-Cache-Control`, so that `Expires` is ignored too.
    pub is_targeted: bool,
}

impl ResponseControl {
    /// Reads `CDN-Cache-Control`, or `Cache-Control` if there is none or it is malformed (RFC 9213
    /// section 2.2).
    pub fn of(headers: &HeaderMap) -> Self {
        Self::targeted(headers).unwrap_or_else(|| Self::untargeted(headers))
    }

    fn untargeted(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        let add = |directive| control.add(directive);
        if directives::for_each(headers, &header::CACHE_CONTROL, add) {
            control.no_store = true;
        }
        control
    }

    fn add(&mut self, Directive { name, argument }: Directive<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let age = |slot: &mut Option<u64>| {
            let value = argument.seconds().unwrap_or(0);
            *slot = Some(if slot.is_some_and(|earlier| earlier != value) { 0 } else { value });
        };
        if is("max-age") {
            age(&mut self.max_age);
        } else if is("s-maxage") {
            age(&mut self.s_maxage);
        } else if is("stale-while-revalidate") {
            age(&mut self.stale_while_revalidate);
        } else if is("stale-if-error") {
            age(&mut self.stale_if_error);
        } else if is("no-cache") {
            merge(&mut self.no_cache, field_names(argument));
        } else if is("private") {
            merge(&mut self.private, field_names(argument));
        } else if is("no-store") {
            self.no_store = true;
        } else if is("must-revalidate") {
            self.must_revalidate = true;
        } else if is("proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if is("must-understand") {
            self.must_understand = true;
        } else if is("public") && argument == Argument::Absent {
            self.public = true;
        }
    }

    /// Reads `CDN-Cache-Control`; `None` if it is absent, empty or malformed.
    fn targeted(headers: &HeaderMap) -> Option<Self> {
        // One pass over the names costs less than the lookup of a name that is not in the static table of `http`.
        if !headers.keys().any(|name| *name == CDN_CACHE_CONTROL) {
            return None;
        }
        let members = structured::dictionary(headers, &CDN_CACHE_CONTROL)?;
        if members.is_empty() {
            return None;
        }
        let mut control = Self { is_targeted: true, ..Self::default() };
        for (key, value) in &members {
            let text;
            let argument = match value {
                Item::Boolean(true) => Argument::Absent,
                Item::Boolean(false) => continue,
                Item::Integer(n) => {
                    text = n.to_string();
                    Argument::Text(text.as_bytes())
                }
                Item::Text(text) => Argument::Text(text.as_bytes()),
                Item::Texts(_) | Item::Other => Argument::Malformed,
            };
            control.add(Directive { name: key.as_bytes(), argument });
        }
        Some(control)
    }

    /// Returns whether the whole response needs validation before every use.
    pub fn needs_validation(&self) -> bool {
        self.no_cache == Some(FieldNames::All)
    }

    /// Returns whether a response with these directives may be stored although its request has `Authorization` (RFC 9111
    /// section 3.5).
    pub fn permits_credentials(&self) -> bool {
        self.public || self.s_maxage.is_some() || self.must_revalidate
    }

    /// Returns whether a stale response must never be used.
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.needs_validation()
    }

    /// Returns the fields that are not stored: those that `no-cache` or `private` lists (RFC 9111 sections
    /// 5.2.2.4 and 5.2.2.7).
    pub fn excluded_fields(&self) -> impl Iterator<Item = &HeaderName> {
        [&self.no_cache, &self.private].into_iter().flat_map(|names| match names {
            Some(FieldNames::Listed(names)) => &names[..],
            Some(FieldNames::All) | None => &[],
        })
    }
}

/// A directive without a list applies to all fields, even if another one has a list.
fn merge(slot: &mut Option<FieldNames>, new: FieldNames) {
    *slot = Some(match (slot.take(), new) {
        (Some(FieldNames::Listed(mut known)), FieldNames::Listed(more)) => {
            known.extend(more);
            FieldNames::Listed(known)
        }
        (None, new) => new,
        (Some(_), _) => FieldNames::All,
    });
}

/// The names in a quoted list; all fields if there is no list or one of its elements is no name.
fn field_names(argument: Argument<'_>) -> FieldNames {
    let Argument::Text(list) = argument else { return FieldNames::All };
    let elements = list.split(|&b| b == b',').map(directives::trim).filter(|e| !e.is_empty());
    match elements.map(HeaderName::from_bytes).collect::<Result<Vec<_>, _>>() {
        Ok(names) if !names.is_empty() => FieldNames::Listed(names),
        Ok(_) | Err(_) => FieldNames::All,
    }
}

/// The directives of a request. Times are in seconds, at most 2^31.
///
/// A malformed time counts as the most restrictive value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestControl {
    /// `max-age`: the response must not be older.
    pub max_age: Option<u64>,
    /// `max-stale`: the response may be stale by this time; 2^31 without a value.
    pub max_stale: Option<u64>,
    /// `min-fresh`: the response must remain fresh for this time.
    pub min_fresh: Option<u64>,
    /// `no-cache`, or `Pragma: no-cache` without `Cache-Control` (RFC 9111 section 5.4).
    pub no_cache: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `only-if-cached`.
    pub only_if_cached: bool,
}

impl RequestControl {
    /// Reads `Cache-Control`, or `Pragma` if there is none.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        if !headers.contains_key(header::CACHE_CONTROL) {
            directives::for_each(headers, &header::PRAGMA, |directive| {
                control.no_cache |= directive.name.eq_ignore_ascii_case(b"no-cache");
            });
            return control;
        }
        let add = |directive| control.add(directive);
        if directives::for_each(headers, &header::CACHE_CONTROL, add) {
            control.no_store = true;
        }
        control
    }

    fn add(&mut self, Directive { name, argument }: Directive<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("max-age") {
            let age = argument.seconds().unwrap_or(0);
            self.max_age = Some(self.max_age.map_or(age, |other| other.min(age)));
        } else if is("min-fresh") {
            let time = argument.seconds().unwrap_or(MAX_SECONDS);
            self.min_fresh = Some(self.min_fresh.map_or(time, |other| other.max(time)));
        } else if is("max-stale") {
            let time = match argument {
                Argument::Absent => MAX_SECONDS,
                argument => argument.seconds().unwrap_or(0),
            };
            self.max_stale = Some(self.max_stale.map_or(time, |other| other.min(time)));
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("no-store") {
            self.no_store = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        }
    }

    /// Returns the directives that a cache in front of an origin obeys although clients must not be able to
    /// bypass it: `no-store`, which keeps the response out, and `only-if-cached`.
    #[must_use]
    pub fn without_bypass(self) -> Self {
        Self { no_store: self.no_store, only_if_cached: self.only_if_cached, ..Self::default() }
    }
}
