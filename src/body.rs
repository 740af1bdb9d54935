//! The body type of requests and responses: [`Body`] is empty, bytes, a channel, a slice of a file, or any other body.
//!
//! ```
//! use vestibule::Body;
//!
//! let whole = Body::from("hello");
//! assert_eq!(whole.as_bytes().unwrap(), "hello");
//!
//! // A body that is written while it is sent.
//! let (sender, streamed) = Body::channel(Some(5));
//! sender.send("hello".into())?;
//! sender.finish(None);
//! assert_eq!(streamed.len(), Some(5));
//! # Ok::<(), vestibule::body::ReaderDropped>(())
//! ```

mod channel;
#[cfg_attr(not(feature = "files"), allow(dead_code, reason = "only `files` knows residency"))]
mod file;
#[cfg(feature = "server")]
mod guarded;
#[cfg(not(feature = "server"))]
mod in_place;
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only drivers make them"))]
mod pipe;
mod read_at;
#[cfg_attr(not(feature = "files"), allow(dead_code, reason = "only `files` knows residency"))]
mod residency;
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "layers and drivers make them"))]
mod segment;
mod stream;

use std::{
    any::Any,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use http_body::{Frame, SizeHint};
use pin_project::pin_project;

pub use channel::{CHANNEL_CAPACITY, ReaderDropped, Sender};
pub use file::FileSlice;
#[cfg(feature = "server")]
pub(crate) use file::Prefetching;
#[cfg(feature = "server")]
pub(crate) use pipe::Ends;
pub use pipe::Pipe;
#[cfg(feature = "files")]
pub(crate) use residency::ResidencyCache;
#[cfg_attr(
    not(feature = "server"),
    expect(unused_imports, reason = "only layers and drivers use them")
)]
pub(crate) use segment::{PollSegment, Segment, Segments};

use crate::error::BoxError;

/// The body of a request or a response.
///
/// It keeps its kind: a body made [`from`](Self::from) bytes is still bytes after a pass through layers, so
/// a server writes it with the head in one call, and a [file slice](Self::file) is sent by `sendfile`. For
/// all other code it is an `http_body::Body`.
///
/// ```
/// use vestibule::Body;
///
/// let body = Body::from("hello");
/// assert_eq!(body.len(), Some(5));
/// assert_eq!(body.as_bytes().unwrap(), "hello");
/// // A `Body` that passed a generic layer is recognized, not wrapped twice.
/// assert!(Body::new(body).as_bytes().is_some());
/// ```
#[derive(Default)]
pub struct Body(Kind);

// Every layer moves the body.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Body>() <= 40);

/// The content of a body. Drivers get it from [`Body::into_kind`].
#[derive(Default)]
pub(crate) enum Kind {
    #[default]
    Empty,
    Bytes(Bytes),
    Channel(channel::Receiver),
    /// Boxed, since every layer moves the body.
    File(Box<FileSlice>),
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "layers make them"))]
    Segmented(segment::SegmentedBody),
    Boxed(BoxBody),
}

/// A body that every service of this crate accepts: shorthand for the bounds.
///
/// Implemented for every `http_body::Body` of `Bytes` that qualifies. Use it as a bound;
/// [`Body::new`] turns a value of such a type into a [`Body`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an HTTP body that this crate accepts",
    note = "expected an `http_body::Body<Data = Bytes> + Send + 'static` whose error converts into \
            `BoxError`"
)]
pub trait HttpBody: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static {}

impl<B> HttpBody for B where B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static
{}

/// A body of another type, erased.
pub(crate) type BoxBody = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>;

impl Body {
    /// Creates an empty body.
    pub fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// Wraps any `http_body::Body` of `Bytes`. A [`Body`] is returned unchanged.
    pub fn new<B: HttpBody>(body: B) -> Self {
        let mut slot = Some(body);
        if let Some(ours) = (&mut slot as &mut dyn Any).downcast_mut::<Option<Self>>() {
            return ours.take().expect("the slot was filled just above");
        }
        let body = slot.expect("the slot was filled just above and is of another type");
        if body.is_end_stream() && body.size_hint().exact() == Some(0) {
            return Self::empty();
        }
        Self(Kind::Boxed(Box::pin(Erased(body))))
    }

    /// Creates a body that is written through its [`Sender`], which is not ready while [`CHANNEL_CAPACITY`]
    /// bytes are queued.
    ///
    /// `len` is the exact length in bytes, if it is known.
    pub fn channel(len: Option<u64>) -> (Sender, Self) {
        let (tx, rx) = channel::new(len);
        (tx, Self(Kind::Channel(rx)))
    }

    /// Creates a body of unknown length from a stream of pieces. An error ends it.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use tokio_stream::StreamExt;
    /// use vestibule::Body;
    ///
    /// let lines = tokio_stream::iter(["one", "two"]).map(|line| Ok::<_, Infallible>(format!("{line}\n")));
    /// let body = Body::from_stream(lines);
    /// assert_eq!(body.len(), None);
    /// ```
    pub fn from_stream<S, T, E>(stream: S) -> Self
    where
        S: Stream<Item = Result<T, E>> + Send + 'static,
        T: Into<Bytes> + 'static,
        E: Into<BoxError> + 'static,
    {
        Self(Kind::Boxed(Box::pin(stream::FromStream(stream))))
    }

    /// Creates a body from a slice of an open file. A server sends it without reading it into memory.
    pub fn file(slice: FileSlice) -> Self {
        Self(Kind::File(Box::new(slice)))
    }

    /// Returns the exact length in bytes, if it is known.
    #[allow(clippy::len_without_is_empty, reason = "a length that may be unknown")]
    pub fn len(&self) -> Option<u64> {
        http_body::Body::size_hint(self).exact()
    }

    /// Returns the whole body, if it is in memory in one piece.
    pub fn as_bytes(&self) -> Option<Bytes> {
        match &self.0 {
            Kind::Empty => Some(Bytes::new()),
            Kind::Bytes(b) => Some(b.clone()),
            Kind::Channel(_) | Kind::File(_) | Kind::Segmented(_) | Kind::Boxed(_) => None,
        }
    }

    /// Returns the slice of a file, if the body is one.
    pub fn as_file(&self) -> Option<&FileSlice> {
        match &self.0 {
            Kind::File(f) => Some(f),
            Kind::Empty
            | Kind::Bytes(_)
            | Kind::Channel(_)
            | Kind::Segmented(_)
            | Kind::Boxed(_) => None,
        }
    }

    /// Returns whether the body needs its producer no longer: it is in memory, in a file, or at its end.
    #[cfg(feature = "server")]
    pub(crate) fn is_complete(&self) -> bool {
        match &self.0 {
            Kind::Empty | Kind::Bytes(_) | Kind::File(_) => true,
            Kind::Channel(_) | Kind::Segmented(_) | Kind::Boxed(_) => {
                http_body::Body::is_end_stream(self)
            }
        }
    }

    /// Returns a second body with the same content, if the body is empty, bytes or a slice of a file; `None`
    /// otherwise. For retries.
    ///
    /// ```
    /// # use vestibule::Body;
    /// let body = Body::from("again");
    /// assert_eq!(body.replay().unwrap().as_bytes(), body.as_bytes());
    /// assert!(Body::channel(None).1.replay().is_none());
    /// ```
    pub fn replay(&self) -> Option<Self> {
        match &self.0 {
            Kind::Empty => Some(Self::empty()),
            Kind::Bytes(b) => Some(b.clone().into()),
            Kind::File(f) => Some(Self(Kind::File(f.clone()))),
            Kind::Channel(_) | Kind::Segmented(_) | Kind::Boxed(_) => None,
        }
    }

    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "only drivers take it apart"))]
    pub(crate) fn into_kind(self) -> Kind {
        self.0
    }
}

#[cfg(feature = "server")]
impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self(kind)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Bytes(b) => {
                let all = std::mem::take(b);
                self.0 = Kind::Empty;
                Poll::Ready((!all.is_empty()).then(|| Ok(Frame::data(all))))
            }
            Kind::Channel(c) => c.poll_frame(cx),
            Kind::File(f) => f.poll_next(cx).map_ok(Frame::data).map_err(Into::into),
            Kind::Segmented(s) => s.poll_frame(cx),
            Kind::Boxed(b) => b.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Bytes(b) => b.is_empty(),
            Kind::Channel(c) => c.is_end(),
            Kind::File(f) => f.is_empty(),
            Kind::Segmented(s) => s.is_end(),
            Kind::Boxed(b) => b.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Bytes(b) => SizeHint::with_exact(b.len() as u64),
            Kind::Channel(c) => c.size_hint(),
            Kind::File(f) => SizeHint::with_exact(f.len()),
            Kind::Segmented(s) => s.size_hint(),
            Kind::Boxed(b) => b.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Empty => "Empty",
            Kind::Bytes(_) => "Bytes",
            Kind::Channel(_) => "Channel",
            Kind::File(_) => "File",
            Kind::Segmented(_) => "Segmented",
            Kind::Boxed(_) => "Boxed",
        };
        f.debug_struct("Body").field("kind", &kind).field("len", &self.len()).finish()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(if bytes.is_empty() { Kind::Empty } else { Kind::Bytes(bytes) })
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

/// Converts the error of another body to [`BoxError`].
#[pin_project]
struct Erased<B>(#[pin] B);

impl<B> http_body::Body for Erased<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().0.poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn stream_body_ends_with_its_stream_and_passes_errors_on() {
        let pieces = [Ok("one "), Ok("two"), Err("broken")];
        let mut body = Body::from_stream(tokio_stream::iter(pieces));
        assert!(body.len().is_none() && !http_body::Body::is_end_stream(&body));
        for piece in ["one ", "two"] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
        }
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "broken");
        let whole =
            Body::from_stream(tokio_stream::iter([Ok::<_, BoxError>(vec![1]), Ok(vec![2])]));
        assert_eq!(whole.collect().await.unwrap().to_bytes(), &[1, 2][..]);
    }
}
