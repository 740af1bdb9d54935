//! The head of a CGI response (RFC 3875 section 6).

use bytes::Bytes;
use http::{
    Response, StatusCode,
    header::{self, HeaderName},
    response::Parts,
};

use super::Fault;
use crate::proto::h1::{FieldLines, parse_content_length, parse_status_and_reason};

/// A head, and the length of the body if the head has it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) content_length: Option<u64>,
}

static STATUS: HeaderName = HeaderName::from_static("status");

/// Parses the head of a response from its lines.
pub(super) fn parse(lines: &FieldLines, head: &Bytes) -> Result<Head, Fault> {
    let mut status = None;
    let mut length = None;
    let (mut has_type, mut has_location) = (false, false);
    let headers = lines.parse(head, |name, value| {
        let is_repeated = match *name {
            header::CONTENT_TYPE => std::mem::replace(&mut has_type, true),
            header::LOCATION => std::mem::replace(&mut has_location, true),
            header::CONTENT_LENGTH => {
                let n = parse_content_length(value).ok_or(Fault::ContentLength)?;
                length.replace(n).is_some()
            }
            header::TRANSFER_ENCODING => return Err(Fault::TransferEncoding),
            _ if *name == STATUS => {
                let (code, _) = parse_status_and_reason(value).ok_or(Fault::Status)?;
                status.replace(code).is_some()
            }
            _ => false,
        };
        if is_repeated { Err(Fault::Repeated) } else { Ok(*name != STATUS) }
    })?;
    if status.is_some_and(|code: StatusCode| code.is_informational()) {
        return Err(Fault::Status); // RFC 3875 section 6.3.3: the response is complete
    }
    if status.is_none() && !has_type && !has_location {
        return Err(Fault::CgiField);
    }
    let (mut parts, ()) = Response::new(()).into_parts();
    // RFC 3875 section 6.2.3: a Location alone is a redirect with 302.
    let default = if has_location { StatusCode::FOUND } else { StatusCode::OK };
    parts.status = status.unwrap_or(default);
    parts.headers = headers;
    Ok(Head { parts, content_length: length })
}
