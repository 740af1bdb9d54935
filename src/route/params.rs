//! `PathParams`: what the parameters of a path pattern matched.

use std::{borrow::Cow, sync::Arc};

/// The values of `{param}` and `{*rest}` in the pattern of a [`Router`](crate::Router); in the
/// request's extensions.
///
/// It is there only if a pattern with parameters matched. Where routers are nested, the parameters
/// of all of them are in it, the outermost first.
///
/// ```
/// use http::{Request, Response};
/// use tower::ServiceExt;
/// use vestibule::{Body, BoxError, PathParams, Router};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let hello = tower::service_fn(|request: Request<Body>| async move {
///     let params = request.extensions().get::<PathParams>().ok_or("no parameters")?;
///     let name = params.get("name").ok_or("no name")?;
///     Ok::<_, BoxError>(Response::new(Body::from(format!("Hello, {name}!"))))
/// });
/// let router = Router::new().route("/hello/{name}", hello);
///
/// let response = router.oneshot(Request::get("/hello/J%C3%BCrgen").body(Body::empty())?).await?;
/// assert_eq!(response.body().as_bytes().unwrap(), "Hello, Jürgen!");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathParams(Vec<(Arc<str>, Box<str>)>);

impl PathParams {
    /// Returns the value of the parameter `name` in [normal form](crate::semantics::target).
    ///
    /// Escapes are decoded, except for `%2F`, `%5C` and `%25`: the value of `{param}` has no
    /// slash in it. [`get_decoded`](Self::get_decoded) decodes them too. If nested routers use a
    /// name twice, the value is that of the innermost router.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| **known == *name).map(|(_, value)| &**value)
    }

    /// Returns the value of the parameter `name` with all escapes decoded once.
    ///
    /// It may contain slashes and backslashes that are no separators of the path, so it must not
    /// be used as the path of a file.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use tower::ServiceExt;
    /// # use vestibule::{Body, BoxError, PathParams, Router};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
    /// let service = tower::service_fn(|request: Request<Body>| async move {
    ///     let params = request.extensions().get::<PathParams>().ok_or("no parameters")?;
    ///     assert_eq!(params.get("key"), Some("50%25 a%2Fb"));
    ///     assert_eq!(params.get_decoded("key").as_deref(), Some("50% a/b"));
    ///     Ok::<_, BoxError>(Response::new(Body::empty()))
    /// });
    /// let router = Router::new().route("/{key}", service);
    /// router.oneshot(Request::get("/50%25%20a%2Fb").body(Body::empty())?).await?;
    /// # Ok(()) }
    /// ```
    pub fn get_decoded(&self, name: &str) -> Option<Cow<'_, str>> {
        let value = self.get(name)?;
        if !value.contains('%') {
            return Some(value.into());
        }
        // In normal form a `%` starts one of these three escapes and nothing else.
        Some(value.replace("%2F", "/").replace("%5C", "\\").replace("%25", "%").into())
    }

    /// Returns all names and values, in the order of the path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, name: Arc<str>, value: &str) {
        self.0.push((name, value.into()));
    }

    pub(super) fn append(&mut self, mut other: Self) {
        if self.0.is_empty() {
            *self = other;
        } else {
            self.0.append(&mut other.0);
        }
    }
}
