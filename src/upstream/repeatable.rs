//! `is_repeatable`: whether a request may be sent again after it may have been sent.

use http::{HeaderMap, Method, header::UPGRADE};

/// Returns whether a request may be sent twice by its method (RFC 9110 section 9.2.2). A tunnel is not begun twice.
pub(super) fn is_repeatable(method: &Method, fields: &HeaderMap) -> bool {
    method.is_idempotent() && !fields.contains_key(UPGRADE)
}
