//! `judge`: decides whether a failed request is sent again.

use std::time::{Duration, Instant};

use http::{Request, header::UPGRADE};

use super::Config;
use crate::{
    body::Body,
    conn::Delivery,
    error::BoxError,
    net::clock,
    upstream::error::{AttemptError, AttemptErrorKind},
};

/// Returns the error, together with the request if it is to be sent again after `delay`. `last` is the error of the
/// previous attempt.
#[cold]
pub(super) fn judge(
    error: BoxError,
    config: &Config,
    attempts: u32,
    deadline: Option<Instant>,
    delay: Duration,
    last: Option<BoxError>,
) -> (BoxError, Option<Box<Request<Body>>>) {
    let mut error = match error.downcast::<AttemptError>() {
        Ok(error) => *error,
        Err(error) => return (error, None),
    };
    let is_of_time = match error.kind() {
        // The previous error is more useful than the fact that there is no other endpoint.
        AttemptErrorKind::NoEndpoint => {
            return (last.unwrap_or_else(|| error.into_source()), None);
        }
        AttemptErrorKind::Request => return (error.into_source(), None),
        AttemptErrorKind::Timeout => true,
        AttemptErrorKind::Unreachable
        | AttemptErrorKind::Busy
        | AttemptErrorKind::StaleConnection
        | AttemptErrorKind::ConnectionLost
        | AttemptErrorKind::Protocol
        | AttemptErrorKind::Service => false,
    };
    let now = clock::now();
    let end = error.request_mut().and_then(|request| config.end(request, deadline));
    let has_time = (!is_of_time || config.attempt_timeout.is_some())
        && end.is_none_or(|end| end.saturating_duration_since(now) > delay);
    if attempts >= config.attempts || !has_time {
        return (error.into_source(), None);
    }
    let delivery = error.delivery();
    let request = error.take_request().filter(|request| {
        let may_repeat = match delivery {
            Delivery::NotSent => true,
            Delivery::MaybeSent => {
                // RFC 9110 section 9.2.2. Nor is a tunnel begun twice.
                request.method().is_idempotent() && !request.headers().contains_key(UPGRADE)
                    || config.repeatable.as_ref().is_some_and(|allows| allows(request))
            }
            Delivery::Answered => false,
        };
        // Checked last, since it takes a retry from the budget.
        may_repeat && config.budget.as_ref().is_none_or(|budget| budget.try_withdraw(now))
    });
    (error.into_source(), request.map(Box::new))
}
