//! Active health checks: the trait [`Check`], and the usual ones.
//!
//! [`Balance::check`](super::Balance::check) runs one for all endpoints of a balancer.

mod http_check;
mod run;

#[cfg(test)]
mod tests;

use std::{future::Future, io};

use super::{endpoint::Endpoint, fastcgi::FastCgi, remote::Remote, tcp::TcpTarget};
use crate::error::BoxError;

pub use http_check::{HttpCheck, MAX_CHECK_BODY};
pub use run::{CHECK_INTERVAL, CHECK_TIMEOUT, CheckOptions};

/// An active health check of an endpoint.
///
/// Implemented for functions that return a future:
///
/// ```
/// use vestibule::{BoxError, upstream::{Endpoint, Remote, check::Check}};
///
/// fn by_file() -> impl Check<Remote> {
///     |endpoint: Endpoint<Remote>| async move {
///         let path = format!("/run/healthy/{}", endpoint.key());
///         if std::path::Path::new(&path).exists() { Ok(()) } else { Err(BoxError::from("no file")) }
///     }
/// }
/// # drop(by_file());
/// ```
pub trait Check<S>: Send + Sync + 'static {
    /// Returns an error that says why the endpoint does not work. The future is dropped at the timeout.
    fn check(&self, endpoint: Endpoint<S>) -> impl Future<Output = Result<(), BoxError>> + Send;
}

impl<S, F, R> Check<S> for F
where
    F: Fn(Endpoint<S>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send,
{
    fn check(&self, endpoint: Endpoint<S>) -> impl Future<Output = Result<(), BoxError>> + Send {
        self(endpoint)
    }
}

/// A server to which [`connects`] can connect: a [`Remote`], a [`FastCgi`] or a [`TcpTarget`].
pub trait ConnectTarget: sealed::ConnectTarget {}

mod sealed {
    use std::{future::Future, io};

    pub trait ConnectTarget: Send + Sync {
        /// Connects once. The error names the server, and its source is the cause.
        fn try_connect(&self) -> impl Future<Output = io::Result<()>> + Send;
    }
}

impl ConnectTarget for Remote {}

impl sealed::ConnectTarget for Remote {
    async fn try_connect(&self) -> io::Result<()> {
        self.check().await
    }
}

impl ConnectTarget for FastCgi {}

impl sealed::ConnectTarget for FastCgi {
    async fn try_connect(&self) -> io::Result<()> {
        self.check().await
    }
}

impl ConnectTarget for TcpTarget {}

impl sealed::ConnectTarget for TcpTarget {
    async fn try_connect(&self) -> io::Result<()> {
        self.check().await
    }
}

/// Checks that a server accepts a connection, which is closed at once.
///
/// ```
/// use vestibule::upstream::{Balance, Endpoint, Remote, check::{CheckOptions, connects}};
///
/// # async fn run() -> std::io::Result<()> {
/// let balance = Balance::round_robin([Endpoint::from(Remote::new("10.0.0.1:3000")?)]);
/// tokio::spawn(balance.check(connects, CheckOptions::new()));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of connecting, within the server's own connect timeout.
pub async fn connects<S: ConnectTarget>(endpoint: Endpoint<S>) -> Result<(), BoxError> {
    Ok(endpoint.service().try_connect().await?)
}
