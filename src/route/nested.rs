//! Shortens the URI of a request for a nested service.

use http::{
    Request, Uri,
    uri::{Parts, PathAndQuery},
};

use crate::{
    body::Body,
    semantics::target::{OriginalUri, RewrittenPath},
};

/// Removes the first `segments` segments from the path, and keeps the URI as the client sent it in
/// the extensions.
pub(super) fn strip(request: &mut Request<Body>, segments: usize) {
    if segments == 0 {
        return;
    }
    let below = below(request.uri(), segments);
    let original = std::mem::replace(request.uri_mut(), below);
    // A router around this one has stored what the client sent.
    let extensions = request.extensions_mut();
    let Some(OriginalUri(first)) = extensions.get::<OriginalUri>() else {
        extensions.insert(OriginalUri(original));
        return;
    };
    // A rewrite that has only removed a prefix: the path of the client ends with that of this request, so it begins with the
    // prefix of the nested service, after the other one.
    if first.path().ends_with(original.path()) {
        extensions.remove::<RewrittenPath>();
    }
}

/// Returns `uri` without the first `segments` segments of its path, of which there are at least
/// that many.
///
/// The rest keeps the bytes that the client sent. An escape never makes or hides a slash (`%2F`
/// stays in the normal form), so the raw path has the same segments as the normal one.
fn below(uri: &Uri, segments: usize) -> Uri {
    let path = shorten(uri, segments);
    if uri.authority().is_none() {
        return path.into(); // origin-form: nothing else to keep
    }
    let mut parts: Parts = uri.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).expect("the URI is valid with a longer path")
}

fn shorten(uri: &Uri, segments: usize) -> PathAndQuery {
    let path = uri.path();
    let slash = memchr::memchr_iter(b'/', path.as_bytes()).nth(segments);
    let shorter = match (slash, uri.path_and_query(), uri.query()) {
        // One copy of path and query, which are one text.
        (Some(slash), Some(whole), _) => PathAndQuery::try_from(&whole.as_str()[slash..]),
        (_, _, Some(query)) => PathAndQuery::try_from(format!("/?{query}")),
        (_, _, None) => return PathAndQuery::from_static("/"),
    };
    shorter.expect("the end of a valid path, from a slash on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_segments_are_removed_and_the_rest_is_kept_as_it_was_sent() {
        for (uri, segments, want) in [
            ("/a/b", 1, "/b"),
            ("/a/b/", 1, "/b/"),
            ("/a/b//c?d=/e?f", 1, "/b//c?d=/e?f"),
            ("/a/b//c?d=/e?f", 2, "//c?d=/e?f"),
            ("/a%2Fb/%63?%64", 1, "/%63?%64"),
            ("/a", 1, "/"),
            ("/a/", 1, "/"),
            ("/a?b=/c", 1, "/?b=/c"),
            ("/a/?", 1, "/?"),
            ("http://h:81/a/b?c", 1, "http://h:81/b?c"),
            ("http://h/a", 1, "http://h/"),
            ("http://h/a?b", 1, "http://h/?b"),
        ] {
            let below = below(&uri.parse().unwrap(), segments);
            assert_eq!(below, *want, "{uri}");
            assert_eq!(below.to_string(), want, "{uri}");
            assert!(below.path_and_query().unwrap().as_str().starts_with('/'), "{uri}");
        }
    }
}
