//! `Params`: the variables of a request.

use std::fmt;

use bytes::BytesMut;

use super::{
    Misuse,
    pairs::{pair_len, put_lengths, split_first},
    record::{MAX_CONTENT, REQUEST, kind, write_header},
};

/// The variables of a request, in the order in which they are sent.
///
/// ```
/// use vestibule::proto::fcgi::Params;
///
/// let mut params = Params::new();
/// params.push(b"QUERY_STRING", b"a=b")?;
/// assert_eq!(params.get("QUERY_STRING"), Some(&b"a=b"[..]));
/// assert!(params.iter().eq([(&b"QUERY_STRING"[..], &b"a=b"[..])]));
/// # Ok::<(), vestibule::proto::fcgi::Misuse>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Params {
    /// The encoded pairs.
    stream: BytesMut,
}

impl Params {
    /// Creates an empty list of variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty list with memory for `len` bytes of names and values.
    #[cfg_attr(
        not(feature = "server"),
        allow(dead_code, reason = "only the driver sends requests")
    )]
    pub(crate) fn with_capacity(len: usize) -> Self {
        Self { stream: BytesMut::with_capacity(len) }
    }

    /// Adds a variable. An earlier one with the same name is kept and sent as well.
    ///
    /// # Errors
    /// [`Misuse::PairTooLong`] if a length does not fit into 31 bits.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), Misuse> {
        self.stream.reserve(pair_len(name.len(), value.len())?);
        put_lengths(name.len(), value.len(), &mut self.stream);
        self.stream.extend_from_slice(name);
        self.stream.extend_from_slice(value);
        Ok(())
    }

    /// Returns the variables, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.stream[..];
        std::iter::from_fn(move || {
            let (pair, next) = split_first(rest)?;
            rest = next;
            Some(pair)
        })
    }

    /// Returns the value of the first variable with this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
    }

    /// Appends the records of the stream, including its end.
    ///
    /// Only a pair that is larger than a record is divided between records. The specification has one stream,
    /// but php-fpm parses each record separately.
    pub(super) fn write(&self, out: &mut BytesMut) {
        // The start of the current record, and the end of its last pair.
        let (mut begin, mut end) = (0, 0);
        while let Some((_, rest)) = split_first(&self.stream[end..]) {
            let next = self.stream.len() - rest.len();
            if next - begin > MAX_CONTENT {
                write_record(&self.stream[begin..end], out);
                begin = end;
            }
            while next - begin > MAX_CONTENT {
                write_record(&self.stream[begin..begin + MAX_CONTENT], out);
                begin += MAX_CONTENT;
            }
            end = next;
        }
        write_record(&self.stream[begin..end], out);
        write_header(kind::PARAMS, REQUEST, 0, out);
    }
}

/// Appends a record, unless it is empty: an empty record is the end of the stream.
fn write_record(content: &[u8], out: &mut BytesMut) {
    if !content.is_empty() {
        write_header(kind::PARAMS, REQUEST, content.len() as u16, out);
        out.extend_from_slice(content);
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_map().entries(self.iter().map(|(name, value)| (text(name), text(value)))).finish()
    }
}
