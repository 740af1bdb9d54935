//! `connect`: opens a connection to a server.

use std::{io, sync::Arc, time::Instant};

use super::{Connection, Protocol, Server};
use crate::{
    conn::{Delivery, client::Cause},
    net::clock,
    upstream::error::{AttemptError, AttemptErrorKind, Unreachable},
};

/// Connects within the connect timeout and the request's deadline, if there is one. Both include the TLS handshake.
pub(super) async fn connect<P: Protocol>(
    server: Arc<Server<P>>,
    deadline: Option<Instant>,
) -> Result<Connection<P>, AttemptError> {
    let timeout = server.config.connect_timeout;
    let until_deadline = deadline.map(|d| d.saturating_duration_since(clock::now()));
    if until_deadline.is_some_and(|left| left.is_zero()) {
        return Err(too_late::<P>().excuse_endpoint());
    }
    let allowed = until_deadline.map_or(timeout, |left| left.min(timeout));
    let source = match tokio::time::timeout(allowed, server.connector.connect()).await {
        Ok(Ok(stream)) => return Ok(server.protocol.connection(stream)),
        Ok(Err(e)) => e,
        Err(_) if until_deadline.is_some_and(|left| left <= timeout) => return Err(too_late::<P>()),
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    Err(Unreachable::into_attempt_error(server.address.clone(), source))
}

/// Returns the error of a request whose deadline has passed.
pub(super) fn too_late<P: Protocol>() -> AttemptError {
    let cause = Cause::<P::Core>::Deadline.into_error();
    AttemptError::new(AttemptErrorKind::Timeout, Delivery::NotSent, cause)
}
