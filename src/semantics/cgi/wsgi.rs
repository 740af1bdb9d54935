//! The variables of a WSGI application (PEP 3333, "environ Variables").

use std::borrow::Cow;

use http::{
    HeaderMap, Request,
    header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST},
};

use super::{addresses, becomes_variable, fields, host, mount, original_uri, protocol};
use crate::{
    peer::Peer,
    semantics::target::{BadTarget, file_path, normalize},
};

/// Calls `push` with the name and the value of each variable that is a string, including `wsgi.url_scheme`.
///
/// `PATH_INFO` is the decoded normal form of the path, which is also what a router matches. `SCRIPT_NAME` is the prefix that
/// a router has removed. `RAW_URI` and `REQUEST_URI` are the unchanged target. Fields become variables by the rules of
/// [`Scripts::variables`](super::Scripts::variables). `vestibule.repeated_fields` has those of which there are several, except
/// `Cookie`, for applications that get fields and not variables (ASGI): a name in one line, and one of its values in the
/// next. `length` is the length of the body, if it is known.
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
    let uri = original_uri(request).path_and_query().map_or("/", |both| both.as_str());
    let path = request.uri().path();
    push("REQUEST_METHOD", request.method().as_str().as_bytes());
    push("SCRIPT_NAME", mount(request)?.as_bytes());
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
    let repeated = repeated_fields(request.headers());
    if !repeated.is_empty() {
        push("vestibule.repeated_fields", &repeated);
    }
    Ok(())
}

fn repeated_fields(headers: &HeaderMap) -> Vec<u8> {
    let mut lines = Vec::new();
    if headers.len() == headers.keys_len() {
        return lines;
    }
    for name in headers.keys().filter(|&name| *name != COOKIE && becomes_variable(name)) {
        let values = headers.get_all(name);
        if values.iter().nth(1).is_some() {
            for value in values {
                lines.extend([name.as_str().as_bytes(), b"\n", value.as_bytes(), b"\n"].concat());
            }
        }
    }
    lines
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
