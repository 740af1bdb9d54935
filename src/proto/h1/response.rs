//! A response's head, as a client reads it.

use bytes::Bytes;
use http::{Method, StatusCode, Version, response::Parts};

use super::{
    Fault, Lenient,
    framing::{Length, Said},
    head::{Lines, range},
    keep::Connection,
    name::Role,
    request, scan,
};

/// What a parsed response head says, apart from itself.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) length: Length,
    pub(super) keep_alive: bool,
}

/// Fills in a blank head from its bytes; `method` is that of the request it answers.
pub(super) fn parse(
    parts: &mut Parts,
    head: &Bytes,
    lines: &Lines,
    method: &Method,
    lenient: Lenient,
) -> Result<Meta, Fault> {
    (parts.version, parts.status, _) = status_line(&head[range(lines.start)])?;

    let mut said = Said::default();
    let mut connection = Connection::default();
    lines.make_room(&mut parts.headers)?;
    for field in &lines.fields {
        let (name, role, value) = field.read(head, lines)?;
        match role {
            Role::ContentLength if lenient.repeated_content_length => {
                let Some(n) = said.content_length_again(value)? else { continue };
                let put = parts.headers.try_insert(name, n.into());
                put.map_err(|_| Fault::FieldsTooLarge)?;
                continue;
            }
            Role::ContentLength => said.content_length(value)?,
            Role::TransferEncoding => {
                said.transfer_encoding(value)?;
                continue; // the body that is handed on is no longer chunked
            }
            Role::Connection => connection.read(value),
            Role::Host | Role::Expect | Role::ContentType | Role::Ambiguous | Role::Other => {}
        }
        field.append(&mut parts.headers, name, head, lines)?;
    }
    let length = said.of_response(parts.status, method, parts.version)?;
    let keep_alive = connection.keeps_alive(parts.version) && length != Length::UntilClose;
    Ok(Meta { length, keep_alive })
}

/// `HTTP-version SP status-code [ SP reason ]` (RFC 9112 section 4). The space before an absent
/// reason is often left out by real servers, and cannot be read in two ways.
pub(super) fn status_line(line: &[u8]) -> Result<(Version, StatusCode, &[u8]), Fault> {
    let (version, rest) = line.split_at_checked(8).ok_or(Fault::StatusLine)?;
    let version = request::version(version)?;
    let rest = rest.strip_prefix(b" ").ok_or(Fault::StatusLine)?;
    let (status, reason) = status_and_reason(rest).ok_or(Fault::StatusLine)?;
    Ok((version, status, reason))
}

/// `status-code [ SP reason ]`.
pub(in crate::proto) fn status_and_reason(bytes: &[u8]) -> Option<(StatusCode, &[u8])> {
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
