//! The variables of a request for CGI, FastCGI and WSGI applications (RFC 3875 section 4.1).

#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "for worker processes"))]
mod wsgi;

use std::{borrow::Cow, net::IpAddr};

use http::{
    HeaderMap, HeaderName, Request, Uri, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST},
    uri::Scheme,
};

use super::target::{BadTarget, OriginalUri, RewrittenPath, file_path, normalize};
use crate::peer::Peer;

#[cfg_attr(not(feature = "process"), allow(unused_imports, reason = "for worker processes"))]
pub(crate) use self::wsgi::wsgi_variables;

/// The scripts of an application: their root, the paths that name them, and their variables.
///
/// A path names a script in one of three ways:
/// - It has a segment that ends in the suffix, `.php` unless set otherwise: `/blog/post.php/2024` is the
///   script `/blog/post.php` with the `PATH_INFO` `/2024`. The first such segment counts.
/// - It ends in a slash: `/blog/` is `/blog/index.php`.
/// - Every other path, and a directory without an index, names the [front controller](Self::front_controller), if there is
///   one.
///
/// The caller must check that the script exists. For a path that names no file, php-fpm removes segments until one
/// does (`cgi.fix_pathinfo`), so `/uploads/x.jpg/y.php` would execute an uploaded picture.
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

/// A script, and the rest of the request's path after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    name: String,
    path_info: String,
}

impl Script {
    /// Returns the path of the script below the document root, beginning with a slash, without escapes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the rest of the request's path after the script: empty, or beginning with a slash, without escapes.
    pub fn path_info(&self) -> &str {
        &self.path_info
    }
}

impl Scripts {
    /// Creates the rules for `.php` scripts below `root`, an absolute path in the file system of the application.
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

    /// Sets the suffix of the names of scripts, which is case-sensitive. Defaults to `.php`.
    #[must_use]
    pub fn suffix(mut self, suffix: impl Into<String>) -> Self {
        self.suffix = suffix.into();
        self
    }

    /// Sets the script of a path that ends in a slash. Defaults to `index.php`.
    #[must_use]
    pub fn index(mut self, name: impl Into<String>) -> Self {
        self.index = name.into();
        self
    }

    /// Sets the script for paths that name none, for example `/index.php`. It gets the path in `REQUEST_URI`. By
    /// default there is none.
    #[must_use]
    pub fn front_controller(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        let slash = if name.starts_with('/') { "" } else { "/" };
        self.front_controller = Some(format!("{slash}{name}"));
        self
    }

    /// Adds a variable for every script, such as `APP_ENV`. It is the last one, and most applications let it replace
    /// another of the same name.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Returns the document root, without a trailing slash.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Returns the path of the script's file in the file system of the application.
    pub fn file_name(&self, script: &Script) -> String {
        format!("{}{}", self.root, script.name)
    }

    /// Returns the scripts that a request's path may name, in order: the first one that exists applies. A path with an
    /// empty segment names none.
    ///
    /// # Errors
    /// [`BadTarget`] for a path without a [normal form](super::target::normalize), or with an escaped
    /// slash, which the application would see decoded.
    pub fn candidates(
        &self,
        path: &str,
    ) -> Result<impl Iterator<Item = Script> + use<>, BadTarget> {
        let normal = normalize(path)?;
        let mut first = None;
        let mut may_fall_back = normal.starts_with('/'); // not `*`
        // A file has one name. A second one, with an empty segment, would avoid the rules for its path.
        let is_name = |path: &str| !path.contains("//");
        if let Some(end) = self.script_end(&normal) {
            let (name, path_info) = normal.split_at(end);
            if is_name(name) {
                first = Some(Script { name: decoded(name)?, path_info: decoded(path_info)? });
            }
            may_fall_back = false;
        } else if normal.ends_with('/') && is_name(&normal) {
            let name = decoded(&normal)? + &self.index;
            first = Some(Script { name, path_info: String::new() });
        }
        let fallback = self.front_controller.as_ref().filter(|_| may_fall_back);
        let fallback = fallback.map(|name| Script { name: name.clone(), path_info: String::new() });
        Ok(first.into_iter().chain(fallback))
    }

    /// Returns the end of the first segment that has a name and the suffix.
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

    /// Calls `push` with the name and the value of each variable.
    ///
    /// `request` should have no hop-by-hop fields: see [`hop::strip`](super::hop::strip). `length` is the length of its body
    /// in bytes. An [`OriginalUri`] in the extensions makes `SCRIPT_NAME` begin with the prefix that
    /// a router has removed.
    ///
    /// Fields become `HTTP_*` variables, except these:
    /// - `Content-Type` and `Content-Length`, which have their own variables.
    /// - `Proxy`: many programs use `HTTP_PROXY` as their proxy ("httpoxy", CVE-2016-5385).
    /// - names with characters other than letters, digits and hyphens: `X_Real_IP` would become the variable of
    ///   `X-Real-IP`, which a proxy in front may have set.
    ///
    /// Fields of one name are joined by commas (RFC 9110 section 5.3), `Cookie` by semicolons.
    ///
    /// # Errors
    /// [`BadTarget`] if the prefix that a router has removed has no normal form.
    pub fn variables<B>(
        &self,
        script: &Script,
        request: &Request<B>,
        length: u64,
        peer: &Peer,
        mut push: impl FnMut(&str, &[u8]),
    ) -> Result<(), BadTarget> {
        let uri = original_uri(request).path_and_query().map_or("/", |both| both.as_str());
        let script_name = mount(request)? + &script.name;
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
        // A php-cgi with `cgi.force_redirect`, its default, requires it.
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

/// Decodes a part of a normal path as a file name.
fn decoded(normal: &str) -> Result<String, BadTarget> {
    if normal.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("/{}", file_path(normal)?))
}

/// Returns the URI that the client sent.
fn original_uri<B>(request: &Request<B>) -> &Uri {
    request.extensions().get::<OriginalUri>().map_or_else(|| request.uri(), |OriginalUri(uri)| uri)
}

/// Returns the prefix that a router has removed: the original path without the one that is left.
fn mount<B>(request: &Request<B>) -> Result<String, BadTarget> {
    let (whole, below) = (original_uri(request).path(), request.uri().path());
    let is_rewritten = || request.extensions().get::<RewrittenPath>().is_some();
    let removed = match whole.strip_suffix(below) {
        Some(removed) => removed,
        None if below == "/" && !is_rewritten() => whole, // `/app` is `/` below `/app`
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

/// Pushes the variables of the two ends of the client's connection.
fn addresses(headers: &HeaderMap, uri: &Uri, peer: &Peer, push: &mut impl FnMut(&str, &[u8])) {
    let is_https = peer.scheme() == Scheme::HTTPS;
    if is_https {
        push("HTTPS", b"on");
    }
    let text = |ip: IpAddr| ip.to_canonical().to_string();
    let local = peer.proxy_addresses().map(|a| a.destination).or_else(|| peer.local_addr());
    let named = headers.get(HOST).and_then(|value| value.to_str().ok());
    let named = named.or_else(|| uri.authority().map(|a| host(a.as_str())));
    let name = match (named.map(without_port), local) {
        (Some(name), _) if !name.is_empty() => Cow::Borrowed(name),
        (_, Some(local)) => Cow::Owned(text(local.ip())),
        _ => Cow::Borrowed("localhost"),
    };
    push("SERVER_NAME", name.as_bytes());
    let port = local.map_or(if is_https { 443 } else { 80 }, |local| local.port());
    push("SERVER_PORT", port.to_string().as_bytes());
    if let Some(local) = local {
        push("SERVER_ADDR", text(local.ip()).as_bytes());
    }
    // RFC 3875 section 4.1.8 requires the variable; this is nginx's value for a Unix socket.
    let client = peer.ip().map_or(Cow::Borrowed("unix:"), |ip| Cow::Owned(text(ip)));
    push("REMOTE_ADDR", client.as_bytes());
    // A trusted proxy often names the client's address only.
    if let Some(client) = peer.addr() {
        push("REMOTE_PORT", client.port().to_string().as_bytes());
    }
}

/// Returns an authority without its user.
fn host(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_user, host)| host)
}

/// Returns a host without its port. An IPv6 address is in brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

/// Pushes the variables of the request's fields.
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
        // RFC 9113 section 8.2.3: the separator of cookies is a semicolon.
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
