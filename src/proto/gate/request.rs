//! Frames for a worker: requests, and disconnects of their clients.

use super::{MAX_FRAME, MAX_ID, MAX_INLINE, marshal::Encoder};

/// The head of a request does not fit into a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the head of the request is too large for a worker: {0} bytes")]
pub struct TooLarge(pub usize);

/// The location of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody<'a> {
    /// In the frame: at most [`MAX_INLINE`] bytes.
    Inline(&'a [u8]),
    /// In a file whose descriptor follows.
    File {
        /// The offset of the body.
        offset: u64,
        /// The length of the body in bytes.
        length: u64,
    },
    /// In a pipe whose descriptor follows, in pieces.
    Stream {
        /// The length of the body in bytes, if it is known.
        length: Option<u64>,
    },
    /// A WebSocket: its frames go over a socket whose descriptor follows.
    WebSocket,
}

/// Encodes the frame of a request.
///
/// ```
/// use vestibule::proto::gate::{RequestBody, RequestEncoder};
///
/// let mut frame = RequestEncoder::new(7);
/// frame.variable("REQUEST_METHOD", b"GET");
/// let frame = frame.finish(RequestBody::Inline(b"")).unwrap();
/// assert_eq!(frame, b")\x03i\x07\0\0\0{Z\x0eREQUEST_METHODz\x03GET0s\0\0\0\0");
/// ```
#[derive(Debug)]
#[must_use = "nothing is written yet"]
pub struct RequestEncoder(Encoder);

impl RequestEncoder {
    /// Begins a request.
    ///
    /// # Panics
    /// In debug builds, if the id is above [`MAX_ID`].
    pub fn new(id: u32) -> Self {
        debug_assert!(id <= MAX_ID);
        let mut encoder = Encoder(Vec::with_capacity(1024));
        encoder.tuple(3);
        encoder.int(id.into());
        encoder.dict();
        Self(encoder)
    }

    /// Adds a variable. A later one of the same name replaces it. Names that are longer than 255 bytes or not ASCII
    /// are ignored, since no application uses them.
    pub fn variable(&mut self, name: &str, value: &[u8]) {
        if name.len() <= 255 && name.is_ascii() {
            self.0.key(name);
            self.0.latin1(value);
        }
    }

    /// Ends the frame.
    ///
    /// # Errors
    /// [`TooLarge`]: the frame would be larger than [`MAX_FRAME`], or a body in it than [`MAX_INLINE`].
    pub fn finish(mut self, body: RequestBody<'_>) -> Result<Vec<u8>, TooLarge> {
        self.0.end_dict();
        match body {
            RequestBody::Inline(bytes) => {
                if bytes.len() > MAX_INLINE {
                    return Err(TooLarge(bytes.len()));
                }
                self.0.bytes(bytes);
            }
            RequestBody::File { offset, length } => {
                self.0.tuple(3);
                self.0.int(1);
                self.0.int(number(offset));
                self.0.int(number(length));
            }
            RequestBody::Stream { length } => {
                self.0.tuple(2);
                self.0.int(2);
                self.0.int(length.map_or(-1, number));
            }
            RequestBody::WebSocket => {
                self.0.tuple(1);
                self.0.int(3);
            }
        }
        let frame = self.0.0;
        if frame.len() > MAX_FRAME { Err(TooLarge(frame.len())) } else { Ok(frame) }
    }
}

/// Converts an offset or a length, which the kernel limits to this.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Returns the id of the request whose frame begins with these bytes; `None` for any other frame.
pub fn request_id(frame: &[u8]) -> Option<u32> {
    let [b')', 3, b'i', a, b, c, d, ..] = *frame else { return None };
    Some(u32::from_le_bytes([a, b, c, d]))
}

/// Returns the frame for a disconnect of the client of request `id`.
pub fn cancel(id: u32) -> Vec<u8> {
    let mut encoder = Encoder(Vec::with_capacity(8));
    encoder.tuple(1);
    encoder.int(id.into());
    encoder.0
}

/// Returns the command to cancel request `id`, which takes too long, to a worker that runs several requests at a time.
pub fn abort(id: u32) -> Vec<u8> {
    let mut encoder = Encoder(Vec::with_capacity(9));
    encoder.tuple(2);
    encoder.int(id.into());
    encoder.none();
    encoder.0
}

/// Returns the command to fork a worker.
pub fn fork() -> Vec<u8> {
    let mut encoder = Encoder(Vec::with_capacity(8));
    encoder.tuple(1);
    encoder.int(1);
    encoder.0
}

/// Returns the command to become the process that forks workers.
pub fn refork() -> Vec<u8> {
    let mut encoder = Encoder(Vec::with_capacity(8));
    encoder.tuple(2);
    encoder.int(3);
    encoder.none();
    encoder.0
}

/// Returns the check of a worker that has no request. Its answer has the same number, at most [`MAX_ID`].
pub fn ping(number: u32) -> Vec<u8> {
    let mut encoder = Encoder(Vec::with_capacity(16));
    encoder.tuple(2);
    encoder.int(4);
    encoder.int(number.into());
    encoder.0
}

/// Returns the command to reap the worker with this process id.
pub fn reap(pid: u32) -> Vec<u8> {
    let mut encoder = Encoder(Vec::with_capacity(16));
    encoder.tuple(2);
    encoder.int(2);
    encoder.int(pid.into());
    encoder.0
}
