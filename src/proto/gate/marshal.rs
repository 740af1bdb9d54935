//! The subset of Python's `marshal` format that frames use.
//!
//! `loads` of CPython 3.9 to 3.14 reads everything that is written here, and `dumps(frame, 2)` of these versions
//! writes only what is read here: version 2 has neither references nor short forms.

use bytes::Bytes;

/// The type codes, the first byte of a value.
mod kind {
    pub(super) const NONE: u8 = b'N';
    pub(super) const TRUE: u8 = b'T';
    pub(super) const FALSE: u8 = b'F';
    pub(super) const INT: u8 = b'i';
    pub(super) const LONG: u8 = b'l';
    pub(super) const FLOAT: u8 = b'g';
    pub(super) const BYTES: u8 = b's';
    pub(super) const UNICODE: u8 = b'u';
    pub(super) const INTERNED: u8 = b't';
    pub(super) const SHORT_ASCII: u8 = b'z';
    pub(super) const SHORT_ASCII_INTERNED: u8 = b'Z';
    pub(super) const ASCII: u8 = b'a';
    pub(super) const TUPLE: u8 = b'(';
    pub(super) const SMALL_TUPLE: u8 = b')';
    pub(super) const LIST: u8 = b'[';
    pub(super) const DICT: u8 = b'{';
    pub(super) const END_OF_DICT: u8 = b'0';
}

/// Bits per digit of a long integer.
const DIGIT_BITS: u32 = 15;

/// Encodes a sequence of values.
#[derive(Debug)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    /// Begins a tuple; its items follow.
    pub(super) fn tuple(&mut self, items: u8) {
        self.0.extend([kind::SMALL_TUPLE, items]);
    }

    /// Begins a dict; its keys and values follow, and [`end_dict`](Self::end_dict).
    pub(super) fn dict(&mut self) {
        self.0.push(kind::DICT);
    }

    pub(super) fn end_dict(&mut self) {
        self.0.push(kind::END_OF_DICT);
    }

    pub(super) fn none(&mut self) {
        self.0.push(kind::NONE);
    }

    pub(super) fn int(&mut self, value: i64) {
        if let Ok(small) = i32::try_from(value) {
            self.0.push(kind::INT);
            self.0.extend(small.to_le_bytes());
            return;
        }
        self.0.push(kind::LONG);
        let mut rest = value.unsigned_abs();
        let digits = (u64::BITS - rest.leading_zeros()).div_ceil(DIGIT_BITS) as i32;
        self.0.extend((digits * value.signum() as i32).to_le_bytes());
        while rest > 0 {
            self.0.extend(((rest & 0x7fff) as u16).to_le_bytes());
            rest >>= DIGIT_BITS;
        }
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.0.push(kind::BYTES);
        self.len(value.len());
        self.0.extend_from_slice(value);
    }

    /// Encodes an ASCII string that Python interns, for example a key.
    ///
    /// # Panics
    /// In debug builds, if it is longer than 255 bytes or not ASCII.
    pub(super) fn key(&mut self, value: &str) {
        debug_assert!(value.len() <= 255 && value.is_ascii());
        self.0.extend([kind::SHORT_ASCII_INTERNED, value.len() as u8]);
        self.0.extend_from_slice(value.as_bytes());
    }

    /// Encodes a string with one character for each byte (ISO 8859-1).
    pub(super) fn latin1(&mut self, value: &[u8]) {
        if !value.is_ascii() {
            let text: String = value.iter().map(|byte| char::from(*byte)).collect();
            self.0.push(kind::UNICODE);
            self.len(text.len());
            self.0.extend_from_slice(text.as_bytes());
            return;
        }
        match u8::try_from(value.len()) {
            Ok(len) => self.0.extend([kind::SHORT_ASCII, len]),
            Err(_) => {
                self.0.push(kind::ASCII);
                self.len(value.len());
            }
        }
        self.0.extend_from_slice(value);
    }

    fn len(&mut self, len: usize) {
        // A frame above `MAX_FRAME` is refused at its end, so a truncated length is never sent.
        self.0.extend((len as u32).to_le_bytes());
    }
}

/// The reason why a frame of a worker is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It ends in the middle of a value.
    #[error("frame is cut off")]
    Truncated,
    /// Bytes follow the last value, or it is larger than [`MAX_FRAME`](super::MAX_FRAME).
    #[error("frame is too long")]
    TooLong,
    /// A value has an unexpected type.
    #[error("frame has a value of the unexpected type 0x{0:02x}")]
    Type(u8),
    /// A number is out of range.
    #[error("frame has a number out of range")]
    Number,
    /// The first item is not a known kind, or the number of items does not match it.
    #[error("frame of unknown kind")]
    Kind,
    /// It was received with an unexpected descriptor, or without an expected one.
    #[error("frame with an unexpected descriptor, or without an expected one")]
    Descriptor,
    /// It does not belong to the current request, or is not expected in its state.
    #[error("frame that is not expected in the exchange")]
    Unsolicited,
}

/// Decodes a sequence of values.
#[derive(Debug)]
pub(super) struct Decoder(pub(super) Bytes);

/// A string from an application: a string, or bytes, which represent characters of ISO 8859-1.
#[derive(Debug)]
pub(super) enum Text {
    /// It may not be valid UTF-8: Python's strings can contain single surrogates.
    Unicode(Bytes),
    Latin1(Bytes),
    /// Another value, for example a number.
    None,
}

impl Text {
    /// Returns its characters as bytes (ISO 8859-1); `None` if one is above 255.
    pub(super) fn into_latin1(self) -> Option<Bytes> {
        let text = match self {
            Self::Unicode(text) if !text.is_ascii() => text,
            Self::Unicode(bytes) | Self::Latin1(bytes) => return Some(bytes),
            Self::None => return None,
        };
        let text = std::str::from_utf8(&text).ok()?;
        let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).ok());
        bytes.collect::<Option<Vec<u8>>>().map(Bytes::from)
    }
}

impl Decoder {
    fn take(&mut self, len: usize) -> Result<Bytes, Fault> {
        if len > self.0.len() {
            return Err(Fault::Truncated);
        }
        Ok(self.0.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (bytes, _) = self.0.split_first_chunk::<N>().ok_or(Fault::Truncated)?;
        let bytes = *bytes;
        bytes::Buf::advance(&mut self.0, N);
        Ok(bytes)
    }

    fn kind(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[kind]| kind)
    }

    fn expect(&mut self, kind: u8) -> Result<(), Fault> {
        match self.kind()? {
            found if found == kind => Ok(()),
            found => Err(Fault::Type(found)),
        }
    }

    fn len(&mut self) -> Result<usize, Fault> {
        let len = i32::from_le_bytes(self.array()?);
        usize::try_from(len).map_err(|_| Fault::Number)
    }

    /// Returns the number of items of a tuple.
    pub(super) fn tuple(&mut self) -> Result<usize, Fault> {
        self.expect(kind::TUPLE)?;
        self.len()
    }

    /// Returns the number of items of a list, or of a tuple instead.
    pub(super) fn list(&mut self) -> Result<usize, Fault> {
        match self.kind()? {
            kind::LIST | kind::TUPLE => self.len(),
            found => Err(Fault::Type(found)),
        }
    }

    /// Decodes a non-negative number.
    pub(super) fn unsigned(&mut self) -> Result<u64, Fault> {
        match self.kind()? {
            kind::INT => {
                let value = i32::from_le_bytes(self.array()?);
                u64::try_from(value).map_err(|_| Fault::Number)
            }
            kind::LONG => {
                let digits = self.len()?;
                let mut value = 0_u64;
                for at in 0..digits {
                    let digit = u64::from(u16::from_le_bytes(self.array()?));
                    let shift = at as u32 * DIGIT_BITS;
                    if digit > 0x7fff || shift >= u64::BITS || digit << shift >> shift != digit {
                        return Err(Fault::Number);
                    }
                    value |= digit << shift;
                }
                Ok(value)
            }
            found => Err(Fault::Type(found)),
        }
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Fault> {
        match self.kind()? {
            kind::TRUE => Ok(true),
            kind::FALSE => Ok(false),
            found => Err(Fault::Type(found)),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, Fault> {
        self.expect(kind::BYTES)?;
        let len = self.len()?;
        self.take(len)
    }

    /// Decodes a string, or another value in its place.
    pub(super) fn text(&mut self) -> Result<Text, Fault> {
        let (len, make): (_, fn(Bytes) -> Text) = match self.kind()? {
            kind::UNICODE | kind::INTERNED => (self.len()?, Text::Unicode),
            kind::BYTES => (self.len()?, Text::Latin1),
            kind::NONE | kind::TRUE | kind::FALSE => (0, |_| Text::None),
            kind::INT => (4, |_| Text::None),
            kind::FLOAT => (8, |_| Text::None),
            found => return Err(Fault::Type(found)),
        };
        self.take(len).map(make)
    }

    /// Decodes a message.
    pub(super) fn message(&mut self) -> Result<String, Fault> {
        match self.text()? {
            Text::Unicode(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
            Text::Latin1(_) => Err(Fault::Type(kind::BYTES)),
            Text::None => Err(Fault::Type(kind::NONE)),
        }
    }

    /// Checks that no bytes follow.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.0.is_empty() { Ok(()) } else { Err(Fault::TooLong) }
    }
}
