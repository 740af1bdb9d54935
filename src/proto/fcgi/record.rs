//! Records: the eight bytes of a header, and what they may say (FastCGI 1.0 section 3.3).

use bytes::{BufMut, BytesMut};

use super::Fault;

/// The most bytes of content in one record: its length has 16 bits.
pub const MAX_CONTENT: usize = 0xffff;

/// Bytes of a record's header.
pub(super) const HEADER: usize = 8;

/// The only version there is.
const VERSION: u8 = 1;

/// The id of the one request that a connection carries at a time. An id may be used again when its
/// request has ended.
pub(super) const REQUEST: u16 = 1;

/// The id of records about the connection.
pub(super) const MANAGEMENT: u16 = 0;

/// `FCGI_RESPONDER`.
pub(super) const RESPONDER: u16 = 1;

/// The flag by which the application leaves the connection open.
pub(super) const KEEP_CONN: u8 = 1;

/// Types of records, by their numbers.
pub(super) mod kind {
    pub(in super::super) const BEGIN_REQUEST: u8 = 1;
    pub(in super::super) const ABORT_REQUEST: u8 = 2;
    pub(in super::super) const END_REQUEST: u8 = 3;
    pub(in super::super) const PARAMS: u8 = 4;
    pub(in super::super) const STDIN: u8 = 5;
    pub(in super::super) const STDOUT: u8 = 6;
    pub(in super::super) const STDERR: u8 = 7;
    pub(in super::super) const GET_VALUES: u8 = 9;
    pub(in super::super) const GET_VALUES_RESULT: u8 = 10;
    pub(in super::super) const UNKNOWN_TYPE: u8 = 11;
}

/// The header of a record that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) request: u16,
    pub(super) content: u16,
    pub(super) padding: u8,
}

impl Header {
    /// The header in these bytes. The last one is reserved and not looked at.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Result<Self, Fault> {
        let [version, kind, id1, id0, content1, content0, padding, _] = *bytes;
        if version != VERSION {
            return Err(Fault::Version);
        }
        let request = u16::from_be_bytes([id1, id0]);
        Ok(Self { kind, request, content: u16::from_be_bytes([content1, content0]), padding })
    }
}

/// Appends the header of a record without padding.
pub(super) fn header(kind: u8, request: u16, content: u16, out: &mut BytesMut) {
    out.put_slice(&[VERSION, kind]);
    out.put_u16(request);
    out.put_u16(content);
    out.put_slice(&[0, 0]);
}
