//! Copies the values of fields that HPACK keeps.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Makes values own their bytes, in one allocation for all of them.
///
/// The crate `h2` inserts a field into its table of HPACK with the value that it was given, and keeps it there until
/// other fields displace it. A value may be a slice of a read buffer with a whole head and the beginning of a body, so a
/// table of 4 KiB would keep megabytes allocated for an idle connection.
pub(crate) fn own_values(fields: &mut HeaderMap) {
    let len: usize = kept(fields).map(|value| value.len()).sum();
    if len == 0 {
        return;
    }
    let mut bytes = BytesMut::with_capacity(len);
    for value in kept(fields) {
        bytes.extend_from_slice(value.as_bytes());
    }
    let mut bytes = bytes.freeze();
    for value in kept(fields) {
        let is_sensitive = value.is_sensitive();
        // Cannot fail: the bytes are those of a valid value.
        if let Ok(owned) = HeaderValue::from_maybe_shared(bytes.split_to(value.len())) {
            *value = owned;
            value.set_sensitive(is_sensitive);
        }
    }
}

/// Returns the values that are inserted into the table.
fn kept(fields: &mut HeaderMap) -> impl Iterator<Item = &mut HeaderValue> {
    fields
        .iter_mut()
        .filter(|(name, value)| !value.is_sensitive() && !is_never_kept(name))
        .map(|(_, value)| value)
}

/// Returns whether `h2` inserts no values of this field, since they rarely repeat.
fn is_never_kept(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::AGE
            | header::AUTHORIZATION
            | header::CONTENT_LENGTH
            | header::COOKIE
            | header::ETAG
            | header::IF_MODIFIED_SINCE
            | header::IF_NONE_MATCH
            | header::LOCATION
            | header::SET_COOKIE
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn values_that_are_kept_do_not_share_the_buffer_of_a_message() {
        let buffer = Bytes::from("first|second|third|tag|rest of a large read".to_owned());
        let value = |from, to| HeaderValue::from_maybe_shared(buffer.slice(from..to)).unwrap();
        let mut fields = HeaderMap::new();
        fields.append("x-a", value(0, 5));
        fields.append("x-a", value(6, 12));
        fields.insert("x-empty", HeaderValue::from_static(""));
        let mut secret = value(13, 18);
        secret.set_sensitive(true);
        fields.insert("x-secret", secret);
        fields.insert(header::ETAG, value(19, 22));
        own_values(&mut fields);
        let all: Vec<_> = fields.get_all("x-a").iter().collect();
        assert_eq!(all, ["first", "second"]);
        assert_eq!(
            (&fields["x-empty"], &fields["x-secret"]),
            (&"".parse().unwrap(), &"third".parse().unwrap())
        );
        assert!(fields["x-secret"].is_sensitive() && !fields["x-a"].is_sensitive());
        // Neither of these is inserted into the table.
        fields.remove("x-secret");
        fields.remove(header::ETAG);
        assert!(buffer.is_unique(), "no other value shares it");
        assert_eq!(fields.len(), 3);
    }
}
