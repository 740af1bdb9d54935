//! Parses response heads, for clients.

use bytes::Bytes;
use http::{Method, StatusCode, Version, response::Parts};

use super::{
    Fault, Lenient,
    framing::{FramingFields, Length},
    head::{Lines, range},
    keep_alive::ConnectionOptions,
    name::KnownField,
    request, scan,
};

/// The framing and connection state that follow from a response head.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) length: Length,
    pub(super) keep_alive: bool,
}

/// Fills an empty head from its bytes; `method` is that of the request.
pub(super) fn parse(
    parts: &mut Parts,
    head: &Bytes,
    lines: &Lines,
    method: &Method,
    lenient: Lenient,
) -> Result<Meta, Fault> {
    (parts.version, parts.status, _) = parse_status_line(&head[range(lines.start)])?;

    let mut framing = FramingFields::default();
    let mut connection = ConnectionOptions::default();
    lines.reserve(&mut parts.headers)?;
    for field in &lines.fields {
        let (name, known, value) = field.read(head, lines)?;
        match known {
            KnownField::ContentLength if lenient.repeated_content_length => {
                let Some(n) = framing.record_repeated_content_length(value)? else { continue };
                let inserted = parts.headers.try_insert(name, n.into());
                inserted.map_err(|_| Fault::FieldsTooLarge)?;
                continue;
            }
            KnownField::ContentLength => framing.record_content_length(value)?,
            KnownField::TransferEncoding => {
                framing.record_transfer_encoding(value)?;
                continue; // the body that is handed on is no longer chunked
            }
            KnownField::Connection => connection.record(value),
            KnownField::Host
            | KnownField::Expect
            | KnownField::ContentType
            | KnownField::Ambiguous
            | KnownField::Other => {}
        }
        field.append(&mut parts.headers, name, head, lines)?;
    }
    let length = framing.response_length(parts.status, method, parts.version)?;
    let keep_alive = connection.keeps_alive(parts.version) && length != Length::UntilClose;
    Ok(Meta { length, keep_alive })
}

/// Parses `HTTP-version SP status-code [ SP reason ]` (RFC 9112 section 4). Real servers often omit the
/// space before an absent reason, and such a line is not ambiguous.
pub(super) fn parse_status_line(line: &[u8]) -> Result<(Version, StatusCode, &[u8]), Fault> {
    let (version, rest) = line.split_at_checked(8).ok_or(Fault::StatusLine)?;
    let version = request::parse_version(version)?;
    let rest = rest.strip_prefix(b" ").ok_or(Fault::StatusLine)?;
    let (status, reason) = parse_status_and_reason(rest).ok_or(Fault::StatusLine)?;
    Ok((version, status, reason))
}

/// Parses `status-code [ SP reason ]`.
pub(in crate::proto) fn parse_status_and_reason(bytes: &[u8]) -> Option<(StatusCode, &[u8])> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = bytes else {
        return None;
    };
    let reason = match rest {
        [] => rest,
        [b' ', reason @ ..] if scan::is_field_value(reason) => reason,
        _ => return None,
    };
    Some((StatusCode::from_bytes(&[*a, *b, *c]).ok()?, reason))
}
