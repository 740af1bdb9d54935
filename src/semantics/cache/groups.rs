//! Groups of responses that are invalidated together: `Cache-Groups` (RFC 9875), and `Surrogate-Key` as an alias.

use http::{HeaderMap, HeaderName};

use super::structured;

/// The field that names the groups of a response (RFC 9875 section 2).
pub const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");

/// The field of a response to an unsafe request that names the groups to invalidate (RFC 9875 section 3).
pub const CACHE_GROUP_INVALIDATION: HeaderName =
    HeaderName::from_static("cache-group-invalidation");

/// A field of other caches with the same meaning: names separated by spaces.
pub const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// Maximum number of groups of a response: 128.
pub const MAX_GROUPS: usize = 128;

/// Maximum length of a group's name: 128 bytes.
pub const MAX_GROUP_LEN: usize = 128;

/// A response has more groups than [`MAX_GROUPS`], or a longer name than [`MAX_GROUP_LEN`]. It is not stored, since
/// it could not be invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than 128 groups, or a name longer than 128 bytes")]
pub struct TooManyGroups;

/// Returns the groups of a response, sorted. A malformed `Cache-Groups` is ignored (RFC 9651 section 4.2).
///
/// # Errors
/// [`TooManyGroups`].
///
/// ```
/// use http::HeaderMap;
/// use vestibule::semantics::cache::groups;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("cache-groups", r#""news", "front page""#.parse().unwrap());
/// headers.insert("surrogate-key", "product-1 news".parse().unwrap());
/// assert_eq!(groups::of(&headers).unwrap(), ["front page", "news", "product-1"]);
/// ```
pub fn of(response: &HeaderMap) -> Result<Vec<String>, TooManyGroups> {
    // One pass over the names costs less than two lookups of names that are not in the static table of `http`.
    if !response.keys().any(|name| *name == CACHE_GROUPS || *name == SURROGATE_KEY) {
        return Ok(Vec::new());
    }
    let mut groups = structured::strings(response, &CACHE_GROUPS).unwrap_or_default();
    for line in response.get_all(SURROGATE_KEY) {
        let names = line.as_bytes().split(|b| b.is_ascii_whitespace()).filter(|n| !n.is_empty());
        groups.extend(names.map(|name| String::from_utf8_lossy(name).into_owned()));
    }
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > MAX_GROUPS || groups.iter().any(|group| group.len() > MAX_GROUP_LEN) {
        return Err(TooManyGroups);
    }
    Ok(groups)
}

/// Returns the groups that the response to an unsafe request invalidates, at most [`MAX_GROUPS`].
pub fn invalidated(response: &HeaderMap) -> Vec<String> {
    let mut groups = structured::strings(response, &CACHE_GROUP_INVALIDATION).unwrap_or_default();
    groups.truncate(MAX_GROUPS);
    groups
}
