//! Rewriting of paths for a server, and of redirects and cookies on their way back.

#[cfg(test)]
mod tests;

use http::{
    HeaderMap, HeaderValue, Uri,
    header::{CONTENT_LOCATION, LOCATION, REFRESH, SET_COOKIE},
    uri::PathAndQuery,
};

use super::target::{BadTarget, has_dot_segment};

/// Maps the paths that clients request to paths of a server, as nginx's `location /app/` with
/// `proxy_pass http://server/base/;`, and maps the responses of the server back: redirects to its own paths and address
/// (`proxy_redirect`), and the `Path` and `Domain` of its cookies.
///
/// Paths are compared without decoding, segment by segment: `/app` matches `/app` and `/app/x`, but neither `/apple` nor
/// `/%61pp`.
///
/// ```
/// use http::{HeaderMap, Uri};
/// use vestibule::semantics::rewrite::Rewrite;
///
/// let rewrite = Rewrite::new()
///     .path("/app", "/")?
///     .server("10.0.0.1:3000")
///     .cookie_domain("internal.example", Some("example.com"));
/// let uri = rewrite.request_target(&Uri::from_static("/app/login?next=/"))?.unwrap();
/// assert_eq!(uri, "/login?next=/");
///
/// let mut headers = HeaderMap::new();
/// headers.insert("location", "http://10.0.0.1:3000/home".parse()?);
/// headers.insert("set-cookie", "id=1; Path=/; Domain=internal.example".parse()?);
/// rewrite.response(&mut headers, None);
/// assert_eq!(headers["location"], "/app/home");
/// assert_eq!(headers["set-cookie"], "id=1; Path=/app; Domain=example.com");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// The prefixes for clients and for the server, without a slash at the end.
    path: Option<(String, String)>,
    servers: Vec<ServerName>,
    /// Domains of cookies with their replacements; `None` removes the attribute.
    domains: Vec<(String, Option<String>)>,
}

/// An authority by which the server may name itself.
#[derive(Debug, Clone)]
struct ServerName {
    is_https: bool,
    /// Without the scheme's default port.
    authority: String,
}

/// The names of a server in one of its responses, beside those of all responses.
#[derive(Clone, Copy)]
struct Names<'a> {
    /// The `Host` that was sent.
    host: Option<&'a HeaderValue>,
    /// Its authority, and whether it is at `https`.
    server: Option<(bool, &'a HeaderValue)>,
}

/// The prefix of the name of a cookie that belongs to one host and all its paths.
const HOST_PREFIX: &[u8] = b"__Host-";

/// The error of a prefix that is not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the prefix of a path: it must begin with '/' and have no '?', '#' or '..'")]
pub struct InvalidPrefix(String);

impl Rewrite {
    /// Creates rules that change nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps paths below `public`, which clients request, to paths below `server`. A slash at the end of either is
    /// insignificant.
    ///
    /// # Errors
    /// [`InvalidPrefix`] unless both begin with a slash and are paths alone.
    pub fn path(mut self, public: &str, server: &str) -> Result<Self, InvalidPrefix> {
        self.path = Some((prefix(public)?, prefix(server)?));
        Ok(self)
    }

    /// Adds an authority, `host` or `host:port`, by which the server may name itself in a redirect to `http`, or to
    /// `https` if it begins with `https://`. A scheme of `http://` or `h2://` is ignored.
    ///
    /// ```
    /// # use http::{HeaderMap, HeaderValue};
    /// # use vestibule::semantics::rewrite::Rewrite;
    /// let rewrite = Rewrite::new().server("https://10.0.0.1");
    /// let mut headers = HeaderMap::new();
    /// headers.insert("location", HeaderValue::from_static("https://10.0.0.1:443/home"));
    /// rewrite.response(&mut headers, None);
    /// assert_eq!(headers["location"], "/home");
    /// ```
    #[must_use]
    pub fn server(mut self, authority: &str) -> Self {
        let (is_https, authority) = match authority.split_once("://") {
            Some((scheme, rest)) => (scheme.eq_ignore_ascii_case("https"), rest),
            None => (false, authority),
        };
        let authority = without_default_port(authority, is_https).to_owned();
        self.servers.push(ServerName { is_https, authority });
        self
    }

    /// Replaces the domain `from` of cookies by `to`. With `None` the attribute is removed, so that a cookie belongs to the
    /// host of the request.
    #[must_use]
    pub fn cookie_domain(mut self, from: &str, to: Option<&str>) -> Self {
        let from = from.trim_start_matches('.').to_owned();
        self.domains.push((from, to.map(str::to_owned)));
        self
    }

    /// Returns the target that is sent to the server; `None` if the request's path is not below the public
    /// prefix.
    ///
    /// # Errors
    /// [`BadTarget::DotSegment`] if paths are mapped and this one has a segment `.` or `..`, plain or escaped: the server
    /// might resolve it to a path that is not below its prefix.
    pub fn request_target(&self, target: &Uri) -> Result<Option<Uri>, BadTarget> {
        let Some((public, server)) = &self.path else { return Ok(Some(target.clone())) };
        let Some(path) = below(target.path(), public) else { return Ok(None) };
        if has_dot_segment(target.path().as_bytes()) {
            return Err(BadTarget::DotSegment);
        }
        Ok(mapped(target, server, path))
    }

    /// Rewrites `Location`, `Content-Location`, `Refresh` and `Set-Cookie` of a response. `host` is the `Host` that was
    /// sent to the server: a redirect to it by `http` names the server, too.
    pub fn response(&self, headers: &mut HeaderMap, host: Option<&HeaderValue>) {
        self.rewrite_response(headers, Names { host, server: None });
    }

    /// The same for a response of the server with this authority, at `https` or not.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for its servers"))]
    pub(crate) fn response_of(
        &self,
        headers: &mut HeaderMap,
        host: Option<&HeaderValue>,
        server: (bool, &HeaderValue),
    ) {
        self.rewrite_response(headers, Names { host, server: Some(server) });
    }

    fn rewrite_response(&self, headers: &mut HeaderMap, names: Names<'_>) {
        for name in [LOCATION, CONTENT_LOCATION] {
            if let Some(value) = headers.get(&name)
                && let Some(changed) = self.location(value.as_bytes(), names)
            {
                headers.insert(name, changed);
            }
        }
        if let Some(value) = headers.get(REFRESH)
            && let Some(changed) = self.refresh(value.as_bytes(), names)
        {
            headers.insert(REFRESH, changed);
        }
        // Changed in place, so that their order stays.
        if let http::header::Entry::Occupied(mut cookies) = headers.entry(SET_COOKIE) {
            for cookie in cookies.iter_mut() {
                if let Some(changed) = self.cookie(cookie.as_bytes()) {
                    *cookie = changed;
                }
            }
        }
    }

    /// Returns the changed location, or `None` if it is kept.
    fn location(&self, value: &[u8], names: Names<'_>) -> Option<HeaderValue> {
        let text = std::str::from_utf8(value).ok()?;
        HeaderValue::from_str(&self.public_target(text, names)?).ok()
    }

    /// Returns the changed `Refresh`, `5; url=/path`, or `None` if it is kept. No RFC defines the field: browsers follow
    /// the HTML standard, which allows a comma and quotes.
    fn refresh(&self, value: &[u8], names: Names<'_>) -> Option<HeaderValue> {
        let text = std::str::from_utf8(value).ok()?;
        let separator = text.find([';', ','])?;
        let equals = separator + text[separator..].find('=')?;
        let is_url = text[separator + 1..equals].trim().eq_ignore_ascii_case("url");
        let target = text[equals + 1..].trim();
        let unquoted = ['"', '\'']
            .iter()
            .find_map(|&quote| target.strip_prefix(quote)?.strip_suffix(quote))
            .unwrap_or(target);
        let changed = self.public_target(unquoted, names).filter(|_| is_url)?;
        let (start, end) = text.split_once(unquoted)?;
        HeaderValue::from_str(&format!("{start}{changed}{end}")).ok()
    }

    /// Returns the target for clients that maps to the server's `target`; `None` if it is the same, or on another host.
    fn public_target(&self, target: &str, names: Names<'_>) -> Option<String> {
        let path = match after_scheme(target) {
            // The rest is an authority and an optional path.
            Some((is_https, rest)) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                self.names_server(is_https, authority, names).then_some(path)?
            }
            None if target.starts_with('/') => target,
            None => return None, // relative to the request's path, or of another scheme
        };
        let changed = self.public_path(path);
        let is_path = changed.starts_with('/') && !names_host(&changed);
        (is_path && changed != target).then_some(changed)
    }

    /// Returns whether an authority is the server's. Without a scheme, both schemes match.
    fn names_server(&self, is_https: Option<bool>, authority: &str, names: Names<'_>) -> bool {
        let is = |of_https: bool, name: &str| {
            is_https.is_none_or(|is_https| is_https == of_https)
                && without_default_port(authority, of_https)
                    .eq_ignore_ascii_case(without_default_port(name, of_https))
        };
        let is_name =
            |of_https: bool, name: &HeaderValue| name.to_str().is_ok_and(|name| is(of_https, name));
        names.host.is_some_and(|host| is_name(false, host))
            || names.server.is_some_and(|(of_https, name)| is_name(of_https, name))
            || self.servers.iter().any(|server| is(server.is_https, &server.authority))
    }

    /// Returns the path for clients that maps to the server's `path`, with the query and fragment after it.
    fn public_path(&self, path: &str) -> String {
        let end = path.find(['?', '#']).unwrap_or(path.len());
        let (path, rest) = path.split_at(end);
        let path = if path.is_empty() { "/" } else { path };
        match &self.path {
            Some((public, server)) => match below(path, server) {
                Some(below) => {
                    let slash = if public.is_empty() && below.is_empty() { "/" } else { "" };
                    format!("{public}{slash}{below}{rest}")
                }
                None => format!("{path}{rest}"),
            },
            None => format!("{path}{rest}"),
        }
    }

    /// Returns the changed `Set-Cookie` (RFC 6265 section 4.1), or `None` if it is kept. Other attributes and the value need
    /// not be UTF-8.
    fn cookie(&self, value: &[u8]) -> Option<HeaderValue> {
        let mut parts = value.split(|&b| b == b';');
        let pair = parts.next()?;
        // Browsers discard such a cookie unless its path is "/" (RFC 6265bis section 4.1.3.2).
        let prefix = pair.trim_ascii_start().get(..HOST_PREFIX.len());
        let keeps_path = prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(HOST_PREFIX));
        let mut out = pair.to_vec();
        for part in parts {
            let attribute = part.trim_ascii();
            let changed = std::str::from_utf8(attribute).ok().and_then(|attribute| {
                let (name, value) = attribute.split_once('=')?;
                let value = value.trim_start();
                let is_named = |known: &str| name.trim_end().eq_ignore_ascii_case(known);
                if is_named("path") && !keeps_path && value.starts_with('/') {
                    Some(Some((name, self.cookie_path(value))))
                } else if is_named("domain") {
                    Some(self.domain(value)?.map(|public| (name, public.to_owned())))
                } else {
                    None
                }
            });
            match changed {
                Some(Some((name, value))) => out.extend(format!("; {name}={value}").bytes()),
                Some(None) => {}
                None => {
                    out.extend(b"; ");
                    out.extend(attribute);
                }
            }
        }
        (out != value).then(|| HeaderValue::from_bytes(&out).ok())?
    }

    /// Returns the path for clients of a cookie with the server's `path`.
    fn cookie_path(&self, path: &str) -> String {
        match &self.path {
            // With a slash it would not match a request for the prefix itself (RFC 6265 section 5.1.4).
            Some((public, server)) if path == "/" && server.is_empty() && !public.is_empty() => {
                public.clone()
            }
            _ => self.public_path(path),
        }
    }

    /// Returns the replacement of a cookie's domain, if it has one.
    fn domain(&self, domain: &str) -> Option<Option<&str>> {
        let domain = domain.trim_start_matches('.');
        let found = self.domains.iter().find(|(from, _)| from.eq_ignore_ascii_case(domain))?;
        Some(found.1.as_deref())
    }
}

/// Returns `target` with `prefix` and `path`.
fn mapped(target: &Uri, prefix: &str, path: &str) -> Option<Uri> {
    let mut text = format!("{prefix}{path}");
    if !text.starts_with('/') {
        text.insert(0, '/');
    }
    if let Some(query) = target.query() {
        text.extend(["?", query]);
    }
    let mut parts = target.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    Uri::from_parts(parts).ok()
}

fn prefix(text: &str) -> Result<String, InvalidPrefix> {
    let is_path = text.starts_with('/')
        && !text.contains(['?', '#'])
        && !text.split('/').any(|segment| segment == "..")
        && PathAndQuery::try_from(text).is_ok();
    if !is_path {
        return Err(InvalidPrefix(text.to_owned()));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Returns the rest of a path below a prefix: empty, or with a slash at its beginning.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Returns whether a reference that begins with a slash names a host (RFC 3986 section 4.2). Browsers take a backslash for
/// a slash, and ignore tabs and line breaks (WHATWG URL section 4.4).
fn names_host(reference: &str) -> bool {
    let second = reference.bytes().filter(|b| !matches!(b, b'\t' | b'\r' | b'\n')).nth(1);
    matches!(second, Some(b'/' | b'\\'))
}

/// Returns what follows `http://` or `https://`, in any case, with whether it is the latter, or what follows `//`.
fn after_scheme(text: &str) -> Option<(Option<bool>, &str)> {
    if let Some(rest) = text.strip_prefix("//") {
        return Some((None, rest));
    }
    let (scheme, rest) = text.split_once("://")?;
    let is = |name: &str| scheme.eq_ignore_ascii_case(name);
    if is("http") || is("https") { Some((Some(is("https")), rest)) } else { None }
}

fn without_default_port(authority: &str, is_https: bool) -> &str {
    authority.strip_suffix(if is_https { ":443" } else { ":80" }).unwrap_or(authority)
}
