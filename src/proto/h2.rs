//! HTTP/2 (RFC 9113) beside its framing: which requests are valid, and which frames are a flood.
//!
//! Frames, HPACK and flow control are those of the crate `h2`. It hides single frames, so a [`FrameMeter`]
//! counts them in the bytes that go into it.

mod frame_meter;
#[cfg(feature = "h2")]
mod own_values;
mod request;
mod response;
#[cfg(feature = "h2")]
mod sent_frames;
#[cfg(feature = "h2")]
mod trailers;

pub use frame_meter::{Flood, FrameLimits, FrameMeter};
#[cfg(feature = "h2")]
pub(crate) use own_values::own_values;
#[cfg(feature = "h2")]
pub(crate) use request::{ValidRequest, validate_request};
#[cfg(feature = "h2")]
pub(crate) use response::{prepare_interim, prepare_response};
#[cfg(feature = "h2")]
pub(crate) use sent_frames::{Sent, SentFrames};
#[cfg(feature = "h2")]
pub(crate) use trailers::{remove_framing, validate_trailers};

/// The bytes with which a client begins (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
