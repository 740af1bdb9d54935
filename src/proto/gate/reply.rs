//! Frames of a worker, and the heads of responses in them.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::{
    MAX_FRAME, MAX_ID,
    marshal::{Decoder, Fault},
};

/// Maximum number of fields in the head of a response: 256.
pub const MAX_FIELDS: usize = 256;

/// A frame of a worker.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply {
    /// The application is loaded.
    Ready,
    /// A response in one piece.
    Complete {
        /// The id of the request.
        id: u32,
        /// The head.
        head: Result<Head, BadHead>,
        /// The body.
        body: Bytes,
    },
    /// A response whose body follows.
    Head {
        /// The id of the request.
        id: u32,
        /// The head.
        head: Result<Head, BadHead>,
    },
    /// A piece of the body.
    Chunk {
        /// The id of the request.
        id: u32,
        /// The piece.
        data: Bytes,
    },
    /// The end of the body, or of a request whose client has disconnected.
    End {
        /// The id of the request.
        id: u32,
    },
    /// A response whose body is a slice of a file.
    File {
        /// The id of the request.
        id: u32,
        /// The head.
        head: Result<Head, BadHead>,
        /// The offset of the body.
        offset: u64,
        /// The length of the body in bytes.
        length: u64,
    },
    /// The application has raised an exception.
    Failed {
        /// The id of the request.
        id: u32,
        /// The exception in one line.
        message: String,
        /// The traceback.
        traceback: String,
    },
    /// Output of the application to its log.
    Log {
        /// The id of the request.
        id: u32,
        /// The text, which may have several lines.
        text: String,
    },
    /// The application has raised an exception after its response.
    Raised {
        /// The id of the request.
        id: u32,
        /// The method and path of the request, and the traceback.
        traceback: String,
    },
    /// The answer to a check.
    Pong {
        /// The number of the check.
        number: u32,
    },
    /// A worker was forked.
    Forked,
    /// A worker could not be forked.
    NotForked {
        /// The error.
        message: String,
    },
    /// A worker was reaped.
    Reaped {
        /// Whether it was ended by a signal.
        is_signal: bool,
        /// Its exit status, or the number of the signal.
        number: u32,
    },
}

/// The head of a response.
#[derive(Debug)]
pub struct Head {
    /// A final status, at least 200.
    pub status: StatusCode,
    /// The fields, including `Content-Length` from the application.
    pub headers: HeaderMap,
    /// The value of `Content-Length`.
    pub length: Option<u64>,
}

/// The fault of a head, which is caused by the application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadHead {
    /// The status does not begin with a number from 200 to 999 and a space.
    #[error("the application returned the invalid status {0:?}")]
    Status(String),
    /// The status is not a string, or the fields are not a list of pairs of strings.
    #[error("the application returned a head with a value of the wrong type")]
    Type,
    /// The name of a field is not a token (RFC 9110 section 5.1).
    #[error("the application returned a field with the invalid name {0:?}")]
    Name(String),
    /// A value has a control character, for example a line break, or a character that is not in ISO 8859-1.
    #[error(
        "the application returned the field {0} with a control character or one beyond ISO 8859-1"
    )]
    Value(HeaderName),
    /// More than [`MAX_FIELDS`] fields.
    #[error("the application returned too many fields: {0}")]
    TooManyFields(usize),
    /// `Content-Length` is repeated, or is not one decimal number.
    #[error("the application returned an invalid or repeated Content-Length")]
    ContentLength,
    /// The application has applied a transfer coding, which is the server's task (PEP 3333, "Other HTTP Features").
    #[error("the application returned a Transfer-Encoding, which only the server may set")]
    TransferEncoding,
}

impl Reply {
    /// Decodes a frame.
    ///
    /// ```
    /// use vestibule::proto::gate::Reply;
    ///
    /// // marshal.dumps((4, 7), 2)
    /// let frame = b"(\x02\0\0\0i\x04\0\0\0i\x07\0\0\0";
    /// assert!(matches!(Reply::decode((&frame[..]).into()), Ok(Reply::End { id: 7 })));
    /// ```
    ///
    /// # Errors
    /// [`Fault`] if it is not a valid frame.
    pub fn decode(frame: Bytes) -> Result<Self, Fault> {
        if frame.len() > MAX_FRAME {
            return Err(Fault::TooLong);
        }
        let mut input = Decoder(frame);
        let items = input.tuple()?;
        let reply = match (input.unsigned()?, items) {
            (0, 1) => Self::Ready,
            (1, 5) => {
                let id = id(&mut input)?;
                let (head, body) = head_and(&mut input, Decoder::bytes)?;
                Self::Complete { id, head, body }
            }
            (2, 4) => {
                let id = id(&mut input)?;
                let (head, ()) = head_and(&mut input, |_| Ok(()))?;
                Self::Head { id, head }
            }
            (3, 3) => Self::Chunk { id: id(&mut input)?, data: input.bytes()? },
            (4, 2) => Self::End { id: id(&mut input)? },
            (5, 6) => {
                let id = id(&mut input)?;
                let slice = |input: &mut Decoder| Ok((input.unsigned()?, input.unsigned()?));
                let (head, (offset, length)) = head_and(&mut input, slice)?;
                Self::File { id, head, offset, length }
            }
            (6, 4) => Self::Failed {
                id: id(&mut input)?,
                message: input.message()?,
                traceback: input.message()?,
            },
            (7, 3) => Self::Log { id: id(&mut input)?, text: input.message()? },
            (8, 1) => Self::Forked,
            (9, 3) => Self::Reaped { is_signal: input.boolean()?, number: id(&mut input)? },
            (10, 2) => Self::NotForked { message: input.message()? },
            (11, 3) => Self::Raised { id: id(&mut input)?, traceback: input.message()? },
            (12, 2) => Self::Pong { number: id(&mut input)? },
            _ => return Err(Fault::Kind),
        };
        input.end()?;
        Ok(reply)
    }

    /// Returns whether a descriptor belongs to it.
    pub fn has_descriptor(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Forked)
    }

    /// Returns the id of its request.
    pub fn id(&self) -> Option<u32> {
        match self {
            Self::Ready
            | Self::Pong { .. }
            | Self::Forked
            | Self::NotForked { .. }
            | Self::Reaped { .. } => None,
            Self::Complete { id, .. }
            | Self::Head { id, .. }
            | Self::Chunk { id, .. }
            | Self::End { id }
            | Self::File { id, .. }
            | Self::Failed { id, .. }
            | Self::Log { id, .. }
            | Self::Raised { id, .. } => Some(*id),
        }
    }
}

fn id(input: &mut Decoder) -> Result<u32, Fault> {
    let id = input.unsigned()?;
    u32::try_from(id).ok().filter(|id| *id <= MAX_ID).ok_or(Fault::Number)
}

/// Decodes a head and the rest of the frame. The rest cannot be found behind a head with a value of the wrong type, so it
/// is discarded.
fn head_and<T: Default>(
    input: &mut Decoder,
    rest: impl FnOnce(&mut Decoder) -> Result<T, Fault>,
) -> Result<(Result<Head, BadHead>, T), Fault> {
    match head(input) {
        Ok(head) => Ok((head, rest(input)?)),
        Err(Fault::Type(_) | Fault::Kind) => {
            input.0.clear();
            Ok((Err(BadHead::Type), T::default()))
        }
        Err(fault) => Err(fault),
    }
}

/// Decodes the status and the fields. All are read even after an invalid one, so that the next value is found.
fn head(input: &mut Decoder) -> Result<Result<Head, BadHead>, Fault> {
    let status = input.text()?.into_latin1();
    let count = input.list()?;
    if count > input.0.len() {
        return Err(Fault::Truncated);
    }
    let mut head = status_code(&status.unwrap_or_default()).map(|status| Head {
        status,
        headers: HeaderMap::with_capacity(count.min(MAX_FIELDS)),
        length: None,
    });
    if count > MAX_FIELDS {
        head = Err(BadHead::TooManyFields(count));
    }
    for _ in 0..count {
        if input.list()? != 2 {
            return Err(Fault::Kind);
        }
        let (name, value) = (input.text()?.into_latin1(), input.text()?.into_latin1());
        if let Ok(valid) = &mut head
            && let Err(error) = add_field(valid, name, value)
        {
            head = Err(error);
        }
    }
    Ok(head)
}

/// Returns the code of a status like `404 Not Found`.
fn status_code(status: &[u8]) -> Result<StatusCode, BadHead> {
    let digits = match status.split_first_chunk::<3>() {
        Some((digits, [] | [b' ', ..])) => StatusCode::from_bytes(digits).ok(),
        _ => None,
    };
    // With an interim response, the server would wait for the final one.
    digits
        .filter(|code| !code.is_informational())
        .ok_or_else(|| BadHead::Status(String::from_utf8_lossy(status).into_owned()))
}

fn add_field(head: &mut Head, name: Option<Bytes>, value: Option<Bytes>) -> Result<(), BadHead> {
    let name = name.unwrap_or_default();
    let Ok(name) = HeaderName::from_bytes(&name) else {
        return Err(BadHead::Name(String::from_utf8_lossy(&name).into_owned()));
    };
    // PEP 3333 forbids control characters, as HTTP does.
    let value = value.and_then(|value| HeaderValue::from_maybe_shared(value).ok());
    let Some(value) = value else { return Err(BadHead::Value(name)) };
    if name == TRANSFER_ENCODING {
        return Err(BadHead::TransferEncoding);
    }
    if name == CONTENT_LENGTH {
        let length = decimal(value.as_bytes()).filter(|_| head.length.is_none());
        head.length = Some(length.ok_or(BadHead::ContentLength)?);
    }
    head.headers.append(name, value);
    Ok(())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}
