//! The errors of this crate: [`Error`] has a [`Kind`], which determines the status of a response, and a cause.
//!
//! ```
//! use vestibule::{BoxError, Error, error::Kind};
//!
//! let error: BoxError = Error::new(Kind::Timeout, "the database did not answer").into();
//! // It is found in the chain of causes of any error.
//! assert_eq!(Error::find(&*error).map(Error::kind), Some(Kind::Timeout));
//! ```

use std::{error::Error as StdError, fmt};

/// Any error, boxed, as in tower.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The kind of an [`Error`]: which side failed, and whether by time, size or form.
///
/// Kinds are independent of protocols and layers; the specific cause is the error's `source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The client sent an invalid request.
    BadRequest,
    /// The request exceeds a size limit.
    TooLarge,
    /// The client took too long to send its request.
    ClientTimeout,
    /// The client disconnected before the exchange was complete.
    ClientGone,
    /// The client exceeds its request rate or its number of requests in flight.
    TooManyRequests,
    /// There is no capacity: a queue was full, or a request waited too long in it.
    Overloaded,
    /// The application or an upstream exceeded its time limit.
    Timeout,
    /// An upstream could not be reached, or sent an invalid response.
    BadGateway,
    /// A fault of this program: the server or the application.
    Internal,
}

/// The error of this crate's services, mostly inside a [`BoxError`]: see [`find`](Self::find).
///
/// It is opaque. Match on its [`kind`](Self::kind), use the `is_*` methods, or downcast a
/// [`source`](StdError::source) that a service documents. The text of its message may change.
///
/// ```
/// use vestibule::error::{Error, Kind};
///
/// let e = Error::new(Kind::Overloaded, "the queue is full");
/// assert!(e.is_overloaded() && !e.is_timeout());
/// assert_eq!(e.to_string(), "no capacity: the queue is full");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    source: BoxError,
}

impl Error {
    /// Creates an error of this kind with its cause.
    pub fn new(kind: Kind, source: impl Into<BoxError>) -> Self {
        Self(Box::new(Inner { kind, source: source.into() }))
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Returns whether there was no capacity for the request.
    pub fn is_overloaded(&self) -> bool {
        self.0.kind == Kind::Overloaded
    }

    /// Returns whether the client exceeded its request rate or its number of requests in flight.
    pub fn is_too_many_requests(&self) -> bool {
        self.0.kind == Kind::TooManyRequests
    }

    /// Returns whether the client or the service exceeded a time limit.
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::Timeout | Kind::ClientTimeout)
    }

    /// Returns whether the client caused the error.
    pub fn is_client(&self) -> bool {
        matches!(
            self.0.kind,
            Kind::BadRequest
                | Kind::TooLarge
                | Kind::ClientTimeout
                | Kind::ClientGone
                | Kind::TooManyRequests
        )
    }

    /// Returns the kind of the first [`Error`] in `error`'s chain of causes; [`Kind::Internal`] if there is none.
    #[cfg(feature = "server")]
    pub(crate) fn kind_of(error: &(dyn StdError + 'static)) -> Kind {
        Self::find(error).map_or(Kind::Internal, Self::kind)
    }

    /// Returns the first [`Error`] in the chain of causes of `error`, including itself. It finds errors that
    /// layers of other crates have wrapped.
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut at = Some(error);
        while let Some(e) = at {
            if let Some(found) = e.downcast_ref::<Self>() {
                return Some(found);
            }
            // The source of an io::Error is that of its payload, which skips the payload itself.
            at = match e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(payload) => Some(payload),
                None => e.source(),
            };
        }
        None
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.0.kind {
            Kind::BadRequest => "bad request",
            Kind::TooLarge => "request too large",
            Kind::ClientTimeout => "client too slow",
            Kind::ClientGone => "client gone",
            Kind::TooManyRequests => "too many requests",
            Kind::Overloaded => "no capacity",
            Kind::Timeout => "timed out",
            Kind::BadGateway => "bad gateway",
            Kind::Internal => "internal error",
        };
        write!(f, "{what}: {}", self.0.source)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("kind", &self.0.kind).field("source", &self.0.source).finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0.source)
    }
}

/// Formats an error and its causes in one line. Skips a cause whose text is in that of its error already.
#[cfg(feature = "server")]
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn StdError + 'static));

#[cfg(feature = "server")]
impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut at = self.0.source();
        while let Some(error) = at {
            let cause = error.to_string();
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
            at = error.source();
        }
        f.write_str(&text)
    }
}

/// Returns the message of a panic.
#[cfg(feature = "server")]
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("its value is not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "server")]
    #[test]
    fn chain_tells_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect to {0}")]
        struct Unreachable(&'static str, #[source] std::io::Error);
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = Error::new(Kind::BadGateway, Unreachable("10.0.0.1:80", refused));
        let told = "bad gateway: cannot connect to 10.0.0.1:80: connection refused";
        assert_eq!(Chain(&error).to_string(), told);
        assert_eq!(Chain(&std::io::Error::other(error)).to_string(), told);
    }

    #[test]
    fn error_is_found_inside_foreign_wrappers() {
        let inner = Error::new(Kind::TooLarge, "9 bytes over");
        let outer = std::io::Error::other(inner);
        assert_eq!(Error::find(&outer).map(Error::kind), Some(Kind::TooLarge));
        let wrapped: BoxError = Box::new(std::io::Error::other(outer));
        assert_eq!(Error::find(&*wrapped).map(Error::kind), Some(Kind::TooLarge));
        assert!(Error::find(&fmt::Error).is_none());
    }

    #[test]
    fn too_many_requests_is_client_error_and_not_overload() {
        let e = Error::new(Kind::TooManyRequests, "9 a second");
        assert!(e.is_too_many_requests() && e.is_client());
        assert!(!e.is_overloaded() && !e.is_timeout());
        assert_eq!(e.to_string(), "too many requests: 9 a second");
    }
}
