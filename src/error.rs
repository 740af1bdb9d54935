//! The crate's error: opaque, asked by `is_*` questions, sorted by nature and by blame.

use std::{error::Error as StdError, fmt};

/// Any error at all, as tower's ecosystem passes it on.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What kind of failure this is: whose fault, and whether it was a matter of time, size or form.
///
/// No kind belongs to one protocol or one layer; the cause, which does, is the error's `source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The client sent something that is not a valid request.
    BadRequest,
    /// The client's request is larger than a limit here.
    TooLarge,
    /// The client took too long to send its request.
    ClientTimeout,
    /// The client went away before the exchange was complete.
    ClientGone,
    /// The client asks more often, or for more at a time, than it may.
    TooManyRequests,
    /// There is no capacity now: a queue was full, or a request waited in it for too long.
    Overloaded,
    /// The work took longer than it may.
    Timeout,
    /// A server behind us could not be reached, or sent something that is not a valid response.
    BadGateway,
    /// Our own fault, or the application's.
    Internal,
}

/// The error that services of this crate report, mostly inside of a [`BoxError`]: see
/// [`find`](Self::find).
///
/// It is opaque: ask [`kind`](Self::kind) or one of the `is_*` questions. The wording of its
/// message may change. Match on its kind, or on a [`source`](StdError::source) that the docs of a
/// service name.
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
    /// An error of this kind, with its cause.
    pub fn new(kind: Kind, source: impl Into<BoxError>) -> Self {
        Self(Box::new(Inner { kind, source: source.into() }))
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Was there no capacity for the request?
    pub fn is_overloaded(&self) -> bool {
        self.0.kind == Kind::Overloaded
    }

    /// Did the client ask more often, or for more at a time, than it may?
    pub fn is_too_many_requests(&self) -> bool {
        self.0.kind == Kind::TooManyRequests
    }

    /// Did something take too long, the client or the work?
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::Timeout | Kind::ClientTimeout)
    }

    /// Is it the client's doing?
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

    /// The kind of the first [`Error`] in `error`'s chain of causes; [`Kind::Internal`] if there is none.
    #[cfg(feature = "server")]
    pub(crate) fn kind_of(error: &(dyn StdError + 'static)) -> Kind {
        Self::find(error).map_or(Kind::Internal, Self::kind)
    }

    /// The first [`Error`] in `error`'s chain of causes, `error` itself included.
    ///
    /// Layers of other crates wrap errors; this finds ours inside.
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut at = Some(error);
        while let Some(e) = at {
            if let Some(found) = e.downcast_ref::<Self>() {
                return Some(found);
            }
            // An io::Error hands out its payload's source, and so passes over the payload.
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

/// An error and its causes in one line, each cause once: the text of many errors has that of their
/// cause in it.
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

/// The message of a panic.
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
