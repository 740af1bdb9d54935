//! Tests of worker pools from the caller's point of view: with real threads, and short but real times.

mod contract;
#[cfg(feature = "process")]
mod daemons;
mod executor;
#[cfg(feature = "process")]
mod exhaustion;
#[cfg(feature = "process")]
mod php;
#[cfg(feature = "process")]
mod processes;
#[cfg(feature = "process")]
mod python;
mod threads;

use std::{
    error::Error as _,
    time::{Duration, Instant},
};

use crate::{
    Body, BoxError, Request, Response,
    error::{Error, Kind},
    peer::Deadline,
};

/// A timeout that never passes in a successful test.
const LONG: Duration = Duration::from_secs(60);
/// A time that a test waits for.
const SHORT: Duration = Duration::from_millis(30);

fn get(path: &str) -> Request {
    Request::builder().uri(path).body(Body::empty()).unwrap()
}

/// A request whose deadline is `within` from now.
fn with_deadline(path: &str, within: Duration) -> Request {
    let mut request = get(path);
    request.extensions_mut().insert(Deadline(Instant::now() + within));
    request
}

fn text(response: &Response) -> String {
    let bytes = response.body().as_bytes().expect("a body in one piece");
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn kind(error: &BoxError) -> Kind {
    Error::find(&**error).expect("an error of this crate").kind()
}

/// The typed cause of an error of this crate.
fn cause<E: std::error::Error + Clone + 'static>(error: &BoxError) -> E {
    let ours = Error::find(&**error).expect("an error of this crate");
    ours.source().and_then(|s| s.downcast_ref::<E>()).expect("this cause").clone()
}

/// The maximum time, or none.
fn time(is_max: bool) -> Duration {
    if is_max { Duration::MAX } else { Duration::ZERO }
}

fn count(is_max: bool) -> usize {
    if is_max { usize::MAX } else { 0 }
}

fn number(is_max: bool) -> u64 {
    if is_max { u64::MAX } else { 0 }
}

/// Checks that a response, or an error of a timeout or of a full queue, was returned.
fn serves_or_refuses(answer: Result<Response, BoxError>) {
    match answer {
        Ok(response) => assert_eq!(response.status(), 200),
        Err(error) => assert!(matches!(kind(&error), Kind::Overloaded | Kind::Timeout), "{error}"),
    }
}
