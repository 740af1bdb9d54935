//! `BasicAuth`: the Basic authentication scheme (RFC 7617).

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header, request};
use tower_layer::Layer;

use super::filter::{Filtered, HeadFilter};
use crate::{
    body::Body,
    semantics::{
        constant_time::is_equal,
        problem::{self, Format},
    },
};

/// Answers 401 to requests without the name and password of a user. Intended for staging sites and administration pages, and
/// only over TLS.
///
/// The time of a comparison depends only on the lengths of the passwords, and every request is compared with all users. The
/// passwords are in the memory of this process in plain text; use [`ForwardAuthLayer`](super::ForwardAuthLayer) for passwords
/// that users have chosen. `Authorization` is removed from an authenticated request, and [`User`] added to its extensions.
///
/// So a cache inside of this layer stores responses as those to requests without `Authorization`, for all users: an application
/// that answers one user otherwise than another must say `Cache-Control: private`.
///
/// ```
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::{BasicAuthLayer, basic_auth::User}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let staging = BasicAuthLayer::new("staging").user("anne", "secret");
/// let site = staging.layer(service_fn(async |request: Request| {
///     let user = request.extensions().get::<User>().map(|user| user.name().to_owned());
///     Ok::<_, BoxError>(Response::new(Body::from(user.unwrap_or_default())))
/// }));
/// let response = site.clone().oneshot(Request::new(Body::empty())).await?;
/// assert_eq!(response.headers()["www-authenticate"], r#"Basic realm="staging", charset="UTF-8""#);
/// let request = http::Request::get("/").header("authorization", "Basic YW5uZTpzZWNyZXQ=");
/// let response = site.oneshot(request.body(Body::empty())?).await?;
/// assert_eq!(response.body().as_bytes().unwrap(), "anne");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct BasicAuthLayer {
    challenge: HeaderValue,
    /// Each name with `name:password` in Base64.
    users: Arc<Vec<(Arc<str>, String)>>,
}

/// The service of [`BasicAuthLayer`].
pub type BasicAuth<S> = Filtered<S, BasicAuthLayer>;

/// The user of a request, in its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(Arc<str>);

impl User {
    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl BasicAuthLayer {
    /// Creates a layer without users. Browsers show the `realm`. Characters other than ASCII letters, digits, spaces and `-._`
    /// are removed from it.
    pub fn new(realm: &str) -> Self {
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || " -._".contains(*c);
        let realm: String = realm.chars().filter(is_plain).collect();
        let challenge = format!(r#"Basic realm="{realm}", charset="UTF-8""#);
        let challenge = HeaderValue::from_str(&challenge).expect("the realm is plain");
        Self { challenge, users: Arc::default() }
    }

    /// Adds a user.
    ///
    /// # Panics
    /// If the name contains a colon, which RFC 7617 forbids.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        assert!(!name.contains(':'), "the user name {name:?} contains a colon (RFC 7617)");
        let credentials = to_base64(format!("{name}:{password}").as_bytes());
        Arc::make_mut(&mut self.users).push((name.into(), credentials));
        self
    }

    fn find(&self, field: &HeaderValue) -> Option<User> {
        let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let token = token.trim_matches(' ').as_bytes();
        // All users are compared, so that the time does not reveal which one matched.
        let found = self.users.iter().fold(None, |found, (name, known)| {
            if is_equal(known.as_bytes(), token) { Some(name) } else { found }
        });
        found.map(|name| User(name.clone()))
    }
}

impl<S> Layer<S> for BasicAuthLayer {
    type Service = BasicAuth<S>;

    fn layer(&self, inner: S) -> BasicAuth<S> {
        Filtered::new(inner, self.clone())
    }
}

impl HeadFilter for BasicAuthLayer {
    type Memo = ();

    fn on_request(&self, head: &mut request::Parts) -> Result<(), Box<Response<Body>>> {
        let mut fields = head.headers.get_all(header::AUTHORIZATION).iter();
        // Two fields may name different users.
        let user = match (fields.next(), fields.next()) {
            (Some(field), None) => self.find(field),
            _ => None,
        };
        if let Some(user) = user {
            head.headers.remove(header::AUTHORIZATION);
            head.extensions.insert(user);
            return Ok(());
        }
        let format = Format::of(&head.method, &head.headers);
        let mut response = problem::response(StatusCode::UNAUTHORIZED, None, format);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, self.challenge.clone());
        Err(Box::new(response))
    }
}

impl std::fmt::Debug for BasicAuthLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.users.iter().map(|(name, _)| name).collect();
        f.debug_struct("BasicAuthLayer").field("users", &names).finish_non_exhaustive()
    }
}

/// RFC 4648 section 4.
fn to_base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_auth_finds_user_by_the_right_password_only() {
        let layer = BasicAuthLayer::new("a\"b\r\n").user("anne", "sec:ret").user("bob", "");
        assert_eq!(layer.challenge, r#"Basic realm="ab", charset="UTF-8""#);
        for (field, user) in [
            ("Basic YW5uZTpzZWM6cmV0", Some("anne")),
            ("bAsIc   YW5uZTpzZWM6cmV0", Some("anne")),
            ("Basic Ym9iOg==", Some("bob")),
            ("Basic Ym9iOg", None),   // without its padding
            ("Basic Ym9i", None),     // bob without a colon
            ("Basic YW5uZTo=", None), // anne without a password
            ("Basic !!!!", None),
            ("Basic", None),
            ("Basic ", None),
            ("Bearer YW5uZTpzZWM6cmV0", None),
        ] {
            let found = layer.find(&field.parse().unwrap());
            assert_eq!(found.as_ref().map(User::name), user, "{field}");
        }
        assert!(!format!("{layer:?}").contains("sec"));
    }

    #[test]
    fn second_authorization_field_is_refused() {
        let layer = BasicAuthLayer::new("a").user("bob", "");
        let request = http::Request::get("/").header("authorization", "Basic Ym9iOg==");
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        assert!(layer.on_request(&mut head).is_ok());
        assert!(
            !head.headers.contains_key("authorization") && head.extensions.get::<User>().is_some()
        );
        for _ in 0..2 {
            head.headers.append("authorization", "Basic Ym9iOg==".parse().unwrap());
        }
        assert_eq!(layer.on_request(&mut head).unwrap_err().status(), 401);
    }
}
