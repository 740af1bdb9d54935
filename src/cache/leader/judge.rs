//! The decision whether a response may be stored.

use std::time::Duration;

use super::super::{clock::Clock, object::announced_len, shared::Shared};
use crate::semantics::{
    cache::{
        Freshness,
        freshness::Received,
        storable::{Exchange, NotStored, Storable, has_use, storable},
    },
    date::HttpDate,
};

/// The reason why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) enum Refusal {
    /// The request forbids it. The response to another request may be storable.
    OfRequest,
    /// The response forbids it. Responses to other requests are probably not storable either.
    OfResponse,
}

/// A response that may be stored.
pub(in crate::cache) struct Judged {
    pub(super) storable: Storable,
    pub(super) freshness: Freshness,
    /// The time of the wall clock at which it was received.
    pub(super) date: HttpDate,
    /// The length of its content; `None` if it is unknown in advance.
    pub(super) len: Option<u64>,
}

/// Decides whether a response may be stored. `received` returns the time at which its head was received, and `len` is the
/// length of its body, if it is known.
pub(in crate::cache) fn judge(
    shared: &Shared,
    exchange: &Exchange<'_>,
    requested: Duration,
    received: impl FnOnce() -> Duration,
    len: Option<u64>,
) -> Result<Judged, Refusal> {
    let storable = storable(exchange, shared.options.set_cookie)
        .map_err(|reason| refusal(exchange, reason))?;
    let date = Clock::date();
    let times = Received { requested, received: received(), date };
    let Exchange { status, response, control, .. } = *exchange;
    let freshness = Freshness::of(status, response, control, times, &shared.options.lifetimes);
    has_use(exchange, &freshness).map_err(|_| Refusal::OfResponse)?;
    let len = announced_len(response).or(len);
    if len.is_some_and(|len| len > shared.store.max_object()) || shared.budget.is_above_soft_limit()
    {
        return Err(Refusal::OfResponse);
    }
    Ok(Judged { storable, freshness, date, len })
}

/// Returns whether the request or the response is the reason.
pub(super) fn refusal(exchange: &Exchange<'_>, reason: NotStored) -> Refusal {
    match reason {
        NotStored::NoStore if exchange.request_control.no_store => Refusal::OfRequest,
        NotStored::Authorization => Refusal::OfRequest,
        _ => Refusal::OfResponse,
    }
}
