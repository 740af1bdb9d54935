//! Invalidation by unsafe requests (RFC 9111 section 4.4).

use http::{HeaderMap, Method, StatusCode, header};

use super::groups::CACHE_GROUP_INVALIDATION;

/// Returns whether the method is unsafe (RFC 9110 section 9.2.1), so that stored responses are invalidated.
pub fn is_unsafe(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// Returns whether the response to an unsafe request invalidates stored responses: it must not be an error.
pub fn invalidates(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// Returns whether the response to an unsafe request has fields with references or groups, which may invalidate more than
/// the target of the request.
#[cfg_attr(not(feature = "cache"), allow(dead_code, reason = "for the cache"))]
pub(crate) fn has_references_or_groups(response: &HeaderMap) -> bool {
    // One pass over the names costs less than three lookups.
    response.keys().any(|name| {
        *name == header::LOCATION
            || *name == header::CONTENT_LOCATION
            || *name == CACHE_GROUP_INVALIDATION
    })
}

/// Returns the paths and queries that the response to an unsafe request invalidates in addition to its target: those
/// of `Location` and `Content-Location` in the same origin.
///
/// `scheme` and `authority` are those of the request, `path` the path of its target. References to other origins are
/// ignored, so that a site cannot invalidate the responses of another.
///
/// ```
/// use http::{HeaderMap, header::LOCATION};
/// use vestibule::semantics::cache::invalidate::targets;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(LOCATION, "../b?c".parse().unwrap());
/// assert_eq!(targets("https", "a.example", "/x/y/z", &headers), ["/x/b?c"]);
/// headers.insert(LOCATION, "https://other.example/b".parse().unwrap());
/// assert!(targets("https", "a.example", "/x/y/z", &headers).is_empty());
/// ```
pub fn targets(scheme: &str, authority: &str, path: &str, response: &HeaderMap) -> Vec<String> {
    let mut found = Vec::new();
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let reference = response.get(name).and_then(|value| value.to_str().ok());
        found.extend(reference.and_then(|text| resolve(scheme, authority, path, text)));
    }
    found
}

/// Resolves a reference (RFC 3986 section 5.2) to a path and query; `None` if it is of another origin.
fn resolve(scheme: &str, authority: &str, base: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    let (has_scheme, rest) = match reference.split_once(':') {
        Some((name, rest)) if !name.contains(['/', '?']) => {
            if !name.eq_ignore_ascii_case(scheme) {
                return None;
            }
            (true, rest)
        }
        _ => (false, reference),
    };
    let rest = match rest.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (host, path) = rest.split_at(end);
            if !without_defaults(host, scheme)
                .eq_ignore_ascii_case(without_defaults(authority, scheme))
            {
                return None;
            }
            if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
        }
        None if has_scheme => return None,
        None if rest.starts_with('/') => rest.to_owned(),
        None if rest.is_empty() => base.to_owned(),
        None if rest.starts_with('?') => format!("{base}{rest}"),
        None => format!("{}{rest}", &base[..=base.rfind('/')?]),
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*rest, None),
    };
    let path = remove_dot_segments(path);
    Some(query.map_or_else(|| path.clone(), |query| format!("{path}?{query}")))
}

/// Returns an authority without the default port and without the trailing dot of its host, which select no other server.
pub(crate) fn without_defaults<'a>(authority: &'a str, scheme: &str) -> &'a str {
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    let host = authority.strip_suffix(default_port).unwrap_or(authority);
    host.strip_suffix('.').unwrap_or(host)
}

/// Removes dot segments of an absolute path (RFC 3986 section 5.2.4).
fn remove_dot_segments(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let last = path.rsplit('/').next().unwrap_or_default();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    if matches!(last, "." | "..") {
        segments.push("");
    }
    format!("/{}", segments.join("/"))
}
