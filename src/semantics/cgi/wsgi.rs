//! The variables of a WSGI application (PEP 3333, "environ Variables").

use std::borrow::Cow;

use http::{
    Request,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST},
};

use super::{addresses, fields, host, mount, protocol};
use crate::{
    peer::Peer,
    semantics::target::{BadTarget, OriginalUri, file_path, normalize},
};

/// Calls `push` with the name and the value of each variable that is a string, including `wsgi.url_scheme`.
///
/// `PATH_INFO` is the decoded normal form of the path, which is also what a router matches. `SCRIPT_NAME` is the prefix that
/// a router has removed. `RAW_URI` and `REQUEST_URI` are the unchanged target. Fields become variables by the rules of
/// [`Scripts::variables`](super::Scripts::variables). `length` is the length of the body, if it is known.
///
/// # Errors
/// [`BadTarget`] for a path without a normal form, or with an escaped slash: the application would see it
/// decoded.
pub(crate) fn wsgi_variables<B>(
    request: &Request<B>,
    length: Option<u64>,
    peer: &Peer,
    mut push: impl FnMut(&str, &[u8]),
) -> Result<(), BadTarget> {
    let original = match request.extensions().get() {
        Some(OriginalUri(uri)) => uri,
        None => request.uri(),
    };
    let uri = original.path_and_query().map_or("/", |both| both.as_str());
    let path = request.uri().path();
    push("REQUEST_METHOD", request.method().as_str().as_bytes());
    push("SCRIPT_NAME", mount(original.path(), path)?.as_bytes());
    push("PATH_INFO", path_info(path)?.as_bytes());
    push("QUERY_STRING", request.uri().query().unwrap_or("").as_bytes());
    push("RAW_URI", uri.as_bytes());
    push("REQUEST_URI", uri.as_bytes());
    push("SERVER_PROTOCOL", protocol(request.version()).as_bytes());
    push("wsgi.url_scheme", peer.scheme().as_str().as_bytes());
    if let Some(value) = request.headers().get(CONTENT_TYPE) {
        push("CONTENT_TYPE", value.as_bytes());
    }
    match length {
        Some(length) if length > 0 || request.headers().contains_key(CONTENT_LENGTH) => {
            push("CONTENT_LENGTH", itoa::Buffer::new().format(length).as_bytes());
        }
        _ => {}
    }
    addresses(request.headers(), request.uri(), peer, &mut push);
    fields(request.headers(), &mut push);
    if let (None, Some(authority)) = (request.headers().get(HOST), request.uri().authority()) {
        push("HTTP_HOST", host(authority.as_str()).as_bytes());
    }
    Ok(())
}

/// The path without escapes. `*`, the target of a server-wide OPTIONS, has none.
fn path_info(path: &str) -> Result<Cow<'_, str>, BadTarget> {
    if path == "*" {
        return Ok(Cow::Borrowed("/"));
    }
    Ok(match normalize(path)? {
        // A path without escapes is its own decoded form.
        Cow::Borrowed(path) if !path.contains('%') => Cow::Borrowed(path),
        normal => Cow::Owned(format!("/{}", file_path(&normal)?)),
    })
}
