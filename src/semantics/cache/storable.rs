//! Decides whether a response may be stored (RFC 9111 section 3), and which of its fields.

use http::{
    HeaderMap, HeaderName, Method, StatusCode,
    header::{self, AUTHORIZATION, SET_COOKIE},
};

use super::{
    control::{FieldNames, RequestControl, ResponseControl},
    freshness::{self, Freshness},
    groups,
    vary::Vary,
};
use crate::semantics::{date::HttpDate, etag::ETag, hop};

/// Final status codes whose caching rules this cache implements, for `must-understand`: those of RFC 9110, 7725,
/// 6585, 8297 and 8470.
const UNDERSTOOD: [u16; 38] = [
    200, 201, 202, 203, 204, 205, 300, 301, 302, 303, 305, 307, 308, 400, 401, 402, 403, 404, 405,
    406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 417, 421, 422, 426, 451, 500, 501, 502, 503,
];

/// Fields that are not stored in addition to the hop-by-hop ones (RFC 9111 section 3.1), and `Age`, which is
/// generated.
static EXCLUDED: [HeaderName; 4] = [
    header::AGE,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
];

/// The handling of a response with `Set-Cookie`, which would give the cookie of one client to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetCookie {
    /// It is not stored, unless it has `public` or `s-maxage`. The field is not stored in that case either.
    #[default]
    KeepOut,
    /// It is stored without the field.
    Remove,
    /// It is stored with the field, which RFC 9111 section 7.3 permits.
    Store,
}

/// The reason why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotStored {
    /// The method is not GET.
    #[error("the method is not GET")]
    Method,
    /// The status is not final or is partial, or it is not implemented although the response has `must-understand`.
    #[error("the status cannot be stored")]
    Status,
    /// The response or the request has `no-store`.
    #[error("no-store")]
    NoStore,
    /// The response has `private`.
    #[error("private")]
    Private,
    /// The request has `Authorization`, and the response does not permit sharing.
    #[error("the request has Authorization")]
    Authorization,
    /// The response has `Set-Cookie`.
    #[error("the response has Set-Cookie")]
    SetCookie,
    /// The response has `Vary: *`, or names too many fields.
    #[error("Vary matches no other request")]
    Vary,
    /// The response has more groups than can be invalidated.
    #[error("too many groups")]
    Groups,
    /// The response has neither freshness nor a validator.
    #[error("no freshness and no validator")]
    NoUse,
}

/// A request and its response, with their directives.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The method of the request.
    pub method: &'a Method,
    /// The fields of the request.
    pub request: &'a HeaderMap,
    /// The directives of the request.
    pub request_control: &'a RequestControl,
    /// The status of the response.
    pub status: StatusCode,
    /// The fields of the response.
    pub response: &'a HeaderMap,
    /// The directives of the response.
    pub control: &'a ResponseControl,
}

/// The requests that a storable response may answer, and the groups in which it is invalidated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storable {
    /// The fields of requests that select it. Never [`Vary::Any`].
    pub vary: Vary,
    /// Its [groups](groups::of), sorted.
    pub groups: Vec<String>,
}

/// Decides whether a response may be stored, except for the rules of [`has_use`], which need its freshness.
///
/// # Errors
/// [`NotStored`] with the reason.
pub fn storable(exchange: &Exchange<'_>, set_cookie: SetCookie) -> Result<Storable, NotStored> {
    let Exchange { method, request, request_control, status, response, control } = *exchange;
    if method != Method::GET {
        return Err(NotStored::Method);
    }
    let is_understood = UNDERSTOOD.contains(&status.as_u16());
    let is_partial = matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED);
    if status.is_informational() || is_partial || (control.must_understand && !is_understood) {
        return Err(NotStored::Status);
    }
    // must-understand replaces no-store for caches that understand the status (RFC 9111 section 5.2.2.3).
    if (control.no_store && !control.must_understand) || request_control.no_store {
        return Err(NotStored::NoStore);
    }
    if control.private == Some(FieldNames::All) {
        return Err(NotStored::Private);
    }
    let is_shared = control.public || control.s_maxage.is_some();
    if request.contains_key(AUTHORIZATION) && !control.permits_credentials() {
        return Err(NotStored::Authorization);
    }
    if set_cookie == SetCookie::KeepOut && response.contains_key(SET_COOKIE) && !is_shared {
        return Err(NotStored::SetCookie);
    }
    let vary = Vary::of(response);
    if vary == Vary::Any {
        return Err(NotStored::Vary);
    }
    let groups = groups::of(response).map_err(|_| NotStored::Groups)?;
    Ok(Storable { vary, groups })
}

/// Decides whether a response is of use when it is stored: it may be fresh without a validation, or has a validator.
///
/// # Errors
/// [`NotStored::NoUse`].
pub fn has_use(exchange: &Exchange<'_>, freshness: &Freshness) -> Result<(), NotStored> {
    let Exchange { status, response, control, .. } = *exchange;
    let is_permitted = freshness.is_explicit()
        || control.public
        || control.needs_validation()
        || freshness::is_heuristically_cacheable(status, control);
    let is_useful = freshness.useful_until() > freshness.received || has_validator(response);
    if is_permitted && is_useful { Ok(()) } else { Err(NotStored::NoUse) }
}

/// Returns whether a response can be validated.
pub fn has_validator(response: &HeaderMap) -> bool {
    let etag = response.get(header::ETAG).is_some_and(|v| ETag::parse(v.as_bytes()).is_ok());
    let modified = response.get(header::LAST_MODIFIED);
    etag || modified.is_some_and(|v| HttpDate::parse(v.as_bytes()).is_some())
}

/// Removes the fields that are not stored, and adds `Date` if there is none (RFC 9110 section 6.6.1).
pub fn retain_stored_fields(
    response: &mut HeaderMap,
    control: &ResponseControl,
    set_cookie: SetCookie,
    received: HttpDate,
) {
    hop::strip(response);
    for name in control.excluded_fields() {
        response.remove(name);
    }
    // One pass over the names costs less than four lookups.
    if response.keys().any(|name| EXCLUDED.contains(name)) {
        for name in &EXCLUDED {
            response.remove(name);
        }
    }
    if set_cookie != SetCookie::Store {
        response.remove(SET_COOKIE);
    }
    if !response.contains_key(header::DATE) {
        response.insert(header::DATE, received.to_value());
    }
}
