//! The header of a record (FastCGI 1.0 section 3.3).

use bytes::{BufMut, BytesMut};

use super::Fault;

/// The maximum number of content bytes in one record: the length has 16 bits.
pub const MAX_CONTENT: usize = 0xffff;

/// The length of a record's header.
pub(super) const HEADER: usize = 8;

/// The only version of the protocol.
const VERSION: u8 = 1;

/// The id of each request. A connection carries one at a time, and an id may be reused when its request has
/// ended.
pub(super) const REQUEST: u16 = 1;

/// The id of records that concern the connection.
pub(super) const MANAGEMENT: u16 = 0;

/// `FCGI_RESPONDER`.
pub(super) const RESPONDER: u16 = 1;

/// `FCGI_KEEP_CONN`: the application leaves the connection open after the request.
pub(super) const KEEP_CONN: u8 = 1;

/// The types of records.
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

/// The header of a received record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) request: u16,
    pub(super) content: u16,
    pub(super) padding: u8,
}

impl Header {
    /// Decodes a header. Its last byte is reserved and ignored.
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
pub(super) fn write_header(kind: u8, request: u16, content: u16, out: &mut BytesMut) {
    out.put_slice(&[VERSION, kind]);
    out.put_u16(request);
    out.put_u16(content);
    out.put_slice(&[0, 0]);
}
