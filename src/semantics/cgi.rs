//! The variables that a CGI, FastCGI or WSGI application gets of a request (RFC 3875 section 4.1).

#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "for worker processes"))]
mod wsgi;

use std::{borrow::Cow, net::SocketAddr};

use http::{
    HeaderMap, HeaderName, Request, Uri, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST},
    uri::Scheme,
};

use super::target::{BadTarget, OriginalUri, file_path, normalize};
use crate::peer::Peer;

#[cfg_attr(not(feature = "process"), allow(unused_imports, reason = "for worker processes"))]
pub(crate) use self::wsgi::wsgi_variables;

/// Where an application's scripts are, which paths name one, and what each is told.
///
/// A path names a script in one of three ways:
/// - It has a segment that ends in the suffix, `.php` unless set otherwise: `/blog/post.php/2024` is the
///   script `/blog/post.php` with the `PATH_INFO` `/2024`. The first such segment counts.
/// - It ends in a slash: `/blog/` is `/blog/index.php`.
/// - Every other path, and a folder without an index, is for the [front
///   controller](Self::front_controller), if there is one.
///
/// Whether a script exists is for the caller to find out, and important: of a path that names no file
/// php-fpm drops segments until one does (`cgi.fix_pathinfo`), so `/uploads/x.jpg/y.php` would run what
/// somebody uploaded as a picture.
///
/// ```
/// use vestibule::semantics::cgi::Scripts;
///
/// let scripts = Scripts::new("/srv/www").front_controller("/index.php");
/// let names = |path| -> Vec<String> {
///     scripts.candidates(path).unwrap().map(|script| script.name().to_owned()).collect()
/// };
/// assert_eq!(names("/blog/post.php/2024"), ["/blog/post.php"]);
/// assert_eq!(names("/blog/"), ["/blog/index.php", "/index.php"]);
/// assert_eq!(names("/users/7"), ["/index.php"]);
/// ```
#[derive(Debug, Clone)]
pub struct Scripts {
    root: String,
    suffix: String,
    index: String,
    front_controller: Option<String>,
    variables: Vec<(String, String)>,
}

/// A script, and what of the request's path follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    name: String,
    path_info: String,
}

impl Script {
    /// The path of the script below the document root, beginning with a slash, without escapes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What follows the script in the request's path: empty, or from a slash on, without escapes.
    pub fn path_info(&self) -> &str {
        &self.path_info
    }
}

impl Scripts {
    /// The `.php` scripts below `root`, an absolute path as the application sees it.
    pub fn new(root: impl Into<String>) -> Self {
        let mut root = root.into();
        root.truncate(root.trim_end_matches('/').len());
        Self {
            root,
            suffix: ".php".to_owned(),
            index: "index.php".to_owned(),
            front_controller: None,
            variables: Vec::new(),
        }
    }

    /// What the names of scripts end in. Default `.php`. Upper and lower case differ.
    #[must_use]
    pub fn suffix(mut self, suffix: impl Into<String>) -> Self {
        self.suffix = suffix.into();
        self
    }

    /// The script of a path that ends in a slash. Default `index.php`.
    #[must_use]
    pub fn index(mut self, name: impl Into<String>) -> Self {
        self.index = name.into();
        self
    }

    /// The script, as in `/index.php`, for every path that names none. It sees the path in
    /// `REQUEST_URI`. Default: there is none.
    #[must_use]
    pub fn front_controller(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        let slash = if name.starts_with('/') { "" } else { "/" };
        self.front_controller = Some(format!("{slash}{name}"));
        self
    }

    /// A further variable for every script, such as `APP_ENV`. It comes last, and to most applications
    /// replaces another of its name.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// The document root, without a slash at its end.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The script's file, as the application sees it.
    pub fn file_name(&self, script: &Script) -> String {
        format!("{}{}", self.root, script.name)
    }

    /// The scripts that a request's path may name. The first one that exists is meant.
    ///
    /// # Errors
    /// [`BadTarget`] for a path without a [normal form](super::target::normalize), or with an escaped
    /// slash: the application would see it decoded.
    pub fn candidates(
        &self,
        path: &str,
    ) -> Result<impl Iterator<Item = Script> + use<>, BadTarget> {
        let normal = normalize(path)?;
        let mut first = None;
        let mut may_fall_back = normal.starts_with('/'); // not `*`
        if let Some(end) = self.script_end(&normal) {
            let (name, path_info) = normal.split_at(end);
            first = Some(Script { name: decoded(name)?, path_info: decoded(path_info)? });
            may_fall_back = false;
        } else if normal.ends_with('/') {
            let name = decoded(&normal)? + &self.index;
            first = Some(Script { name, path_info: String::new() });
        }
        let fallback = self.front_controller.as_ref().filter(|_| may_fall_back);
        let fallback = fallback.map(|name| Script { name: name.clone(), path_info: String::new() });
        Ok(first.into_iter().chain(fallback))
    }

    /// Where the first segment ends that has a name and the suffix.
    fn script_end(&self, normal: &str) -> Option<usize> {
        let mut begin = 0;
        for segment in normal.split('/') {
            let end = begin + segment.len();
            if segment.len() > self.suffix.len() && segment.ends_with(&self.suffix) {
                return Some(end);
            }
            begin = end + 1;
        }
        None
    }

    /// Tells `push` the name and the value of each variable.
    ///
    /// `request` should be without the fields of its hop: see [`hop::strip`](super::hop::strip). `length` is
    /// that of its body in bytes. An [`OriginalUri`] in the extensions makes
    /// `SCRIPT_NAME` begin with what a router has removed.
    ///
    /// Fields become `HTTP_*`, of which these do not:
    /// - `Content-Type` and `Content-Length` have variables of their own.
    /// - `Proxy`: many programs take `HTTP_PROXY` for their proxy ("httpoxy", CVE-2016-5385).
    /// - names with anything but letters, digits and hyphens: `X_Real_IP` would become the variable of
    ///   `X-Real-IP`, which a proxy in front may have set.
    ///
    /// Fields of one name are joined by commas (RFC 9110 section 5.3), `Cookie` by semicolons.
    ///
    /// # Errors
    /// [`BadTarget`] if what a router has removed has no normal form.
    pub fn variables<B>(
        &self,
        script: &Script,
        request: &Request<B>,
        length: u64,
        peer: &Peer,
        mut push: impl FnMut(&str, &[u8]),
    ) -> Result<(), BadTarget> {
        let original = match request.extensions().get() {
            Some(OriginalUri(uri)) => uri,
            None => request.uri(),
        };
        let uri = original.path_and_query().map_or("/", |both| both.as_str());
        let script_name = mount(original.path(), request.uri().path())? + &script.name;
        push("GATEWAY_INTERFACE", b"CGI/1.1");
        push("SERVER_SOFTWARE", b"vestibule");
        push("SERVER_PROTOCOL", protocol(request.version()).as_bytes());
        push("REQUEST_METHOD", request.method().as_str().as_bytes());
        push("REQUEST_SCHEME", peer.scheme().as_str().as_bytes());
        push("REQUEST_URI", uri.as_bytes());
        push("QUERY_STRING", request.uri().query().unwrap_or("").as_bytes());
        push("DOCUMENT_ROOT", self.root.as_bytes());
        push("DOCUMENT_URI", format!("{script_name}{}", script.path_info).as_bytes());
        push("SCRIPT_NAME", script_name.as_bytes());
        push("SCRIPT_FILENAME", self.file_name(script).as_bytes());
        if !script.path_info.is_empty() {
            push("PATH_INFO", script.path_info.as_bytes());
        }
        // Without it a php-cgi that was built to be run by a server refuses to run.
        push("REDIRECT_STATUS", b"200");
        if let Some(value) = request.headers().get(CONTENT_TYPE) {
            push("CONTENT_TYPE", value.as_bytes());
        }
        if length > 0 || request.headers().contains_key(CONTENT_LENGTH) {
            push("CONTENT_LENGTH", length.to_string().as_bytes());
        }
        addresses(request.headers(), request.uri(), peer, &mut push);
        fields(request.headers(), &mut push);
        if let (None, Some(authority)) = (request.headers().get(HOST), request.uri().authority()) {
            push("HTTP_HOST", host(authority.as_str()).as_bytes());
        }
        for (name, value) in &self.variables {
            push(name, value.as_bytes());
        }
        Ok(())
    }
}

/// A part of a normal path, decoded as the name of a file is.
fn decoded(normal: &str) -> Result<String, BadTarget> {
    if normal.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("/{}", file_path(normal)?))
}

/// What a router has removed of the path: `whole` without `below`.
fn mount(whole: &str, below: &str) -> Result<String, BadTarget> {
    let removed = match whole.strip_suffix(below) {
        Some(removed) => removed,
        None if below == "/" => whole, // `/app` is `/` below `/app`
        None => "",
    };
    if removed.is_empty() { Ok(String::new()) } else { decoded(&normalize(removed)?) }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// The two ends of the connection, as the client sees them.
fn addresses(headers: &HeaderMap, uri: &Uri, peer: &Peer, push: &mut impl FnMut(&str, &[u8])) {
    let is_https = peer.scheme() == Scheme::HTTPS;
    if is_https {
        push("HTTPS", b"on");
    }
    let text = |addr: SocketAddr| addr.ip().to_canonical().to_string();
    let local = peer.proxy_addresses().map(|a| a.destination).or_else(|| peer.local_addr());
    let named = headers.get(HOST).and_then(|value| value.to_str().ok());
    let named = named.or_else(|| uri.authority().map(|a| host(a.as_str())));
    let name = match (named.map(without_port), local) {
        (Some(name), _) if !name.is_empty() => Cow::Borrowed(name),
        (_, Some(local)) => Cow::Owned(text(local)),
        _ => Cow::Borrowed("localhost"),
    };
    push("SERVER_NAME", name.as_bytes());
    let port = local.map_or(if is_https { 443 } else { 80 }, |local| local.port());
    push("SERVER_PORT", port.to_string().as_bytes());
    if let Some(local) = local {
        push("SERVER_ADDR", text(local).as_bytes());
    }
    match peer.addr() {
        Some(client) => {
            push("REMOTE_ADDR", text(client).as_bytes());
            push("REMOTE_PORT", client.port().to_string().as_bytes());
        }
        // RFC 3875 section 4.1.8 demands it; nginx says so of a Unix socket.
        None => push("REMOTE_ADDR", b"unix:"),
    }
}

/// An authority without its user.
fn host(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_user, host)| host)
}

/// A host without its port; the colons of an IPv6 address stand in brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

/// The request's fields.
fn fields(headers: &HeaderMap, push: &mut impl FnMut(&str, &[u8])) {
    let (mut variable, mut joined) = (String::new(), Vec::new());
    for name in headers.keys() {
        if !becomes_variable(name) {
            continue;
        }
        variable.clear();
        variable.push_str("HTTP_");
        let upper = |c: char| if c == '-' { '_' } else { c.to_ascii_uppercase() };
        variable.extend(name.as_str().chars().map(upper));
        let mut values = headers.get_all(name).iter().peekable();
        let first = values.next().map_or(&b""[..], |value| value.as_bytes());
        if values.peek().is_none() {
            push(&variable, first);
            continue;
        }
        joined.clear();
        joined.extend_from_slice(first);
        // RFC 9113 section 8.2.3: a Cookie has another separator than a list.
        let separator: &[u8] = if *name == COOKIE { b"; " } else { b", " };
        for value in values {
            joined.extend_from_slice(separator);
            joined.extend_from_slice(value.as_bytes());
        }
        push(&variable, &joined);
    }
}

fn becomes_variable(name: &HeaderName) -> bool {
    let is_own = *name == CONTENT_TYPE || *name == CONTENT_LENGTH || name.as_str() == "proxy";
    !is_own && name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests;
