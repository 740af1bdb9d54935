//! `Link`: sends requests to one worker and receives its responses, in the worker's protocol.

mod bridge;
mod gate;
mod http;

use std::{future::pending, io, os::fd::BorrowedFd, sync::Arc};

pub(super) use self::{gate::GateLink, http::HttpLink};
use super::super::super::{
    process::GateError,
    queue::{
        ahead::Lookahead,
        job::{Answer, Job},
    },
};
use crate::{
    Request,
    conn::{Delivery, h1::client::Cause},
    error::{BoxError, Error, Kind},
};

/// The connection to one worker.
pub(super) enum Link {
    Http(HttpLink),
    Gate(GateLink),
}

/// The failure of an exchange before its response.
pub(super) struct ExchangeFailed {
    /// The request, if it can be sent again.
    pub(super) request: Option<Request>,
    pub(super) delivery: Delivery,
    /// Whether the worker must be stopped: it accepts no connections, or has violated the protocol.
    pub(super) is_fatal: bool,
    /// Whether the worker is known to be idle: nothing was sent to it, or this process has taken the request back.
    pub(super) is_worker_idle: bool,
    pub(super) error: BoxError,
}

/// The reason why a worker has failed a check.
pub(super) struct Unhealthy {
    pub(super) reason: String,
    /// Whether it has answered at all.
    pub(super) has_answered: bool,
}

impl ExchangeFailed {
    /// Creates the failure of a process that has ended while its connection is held open.
    pub(super) fn ended() -> Self {
        Self {
            request: None,
            delivery: Delivery::MaybeSent,
            is_fatal: false,
            is_worker_idle: false,
            error: Error::new(Kind::BadGateway, Cause::Closed).into(),
        }
    }

    /// Creates the failure of a request that was taken back before the worker had read it.
    fn taken_back(request: Request) -> Self {
        let delivery = Delivery::NotSent;
        Self { request: Some(request), delivery, is_worker_idle: true, ..Self::ended() }
    }
}

impl Link {
    /// Sends a request and waits for the head of its response, or for the application's error. Calls `on_begun` when
    /// another request may be sent ahead.
    pub(super) async fn exchange(
        &self,
        request: Request,
        job: &Arc<Job>,
        on_begun: impl Fn(),
    ) -> Result<Answer, ExchangeFailed> {
        match self {
            Self::Http(link) => link.exchange_job(request, job).await.map(Ok),
            Self::Gate(link) => link.exchange(request, job, on_begun).await,
        }
    }

    /// Returns the interface for sending requests ahead, if the worker supports it.
    pub(super) fn lookahead(&self) -> Option<Arc<dyn Lookahead>> {
        match self {
            Self::Http(_) => None,
            Self::Gate(link) => link.lookahead(),
        }
    }

    /// Returns whether the link may change its runtime between two requests.
    pub(super) fn may_move(&self) -> bool {
        matches!(self, Self::Gate(_))
    }

    /// Moves the link to the current runtime.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn change_runtime(&self) -> io::Result<()> {
        match self {
            Self::Http(_) => Ok(()),
            Self::Gate(link) => link.change_runtime(),
        }
    }

    /// Records that the process has exited.
    pub(super) fn on_exit(&self) {
        match self {
            Self::Http(_) => {} // the kernel has closed its connections
            Self::Gate(link) => link.on_exit(),
        }
    }

    /// Waits until the worker is ready. `problem` is the result of the last check.
    pub(super) async fn wait_ready(&self, problem: &mut String) {
        match self {
            Self::Http(link) => link.wait_ready(problem).await,
            Self::Gate(link) => link.wait_ready(problem).await,
        }
    }

    /// Checks a worker without a request.
    pub(super) async fn check(&self) -> Result<(), Unhealthy> {
        match self {
            Self::Http(link) => link.check().await,
            Self::Gate(link) => link.check().await,
        }
    }

    /// Returns whether the worker is ready when its program runs.
    pub(super) fn is_started(&self) -> bool {
        match self {
            Self::Http(link) => link.is_started(),
            Self::Gate(_) => false,
        }
    }

    /// Returns whether the pool sends the worker no requests.
    pub(super) fn is_independent(&self) -> bool {
        match self {
            Self::Http(link) => link.is_independent(),
            Self::Gate(_) => false,
        }
    }

    /// Waits until the [`SocketUser`](super::SocketUser) does not use the worker any more.
    pub(super) async fn retire(&self) {
        match self {
            Self::Http(link) => link.retire().await,
            Self::Gate(_) => {}
        }
    }

    /// Cancels the request if its response was not read to its end, and waits until the worker has ended it. `release`
    /// takes back the requests that were sent ahead, and returns `false` if the worker has begun one.
    pub(super) async fn finish_request(&self, job: &Job, release: impl Fn() -> bool) {
        match self {
            Self::Http(_) => {} // the connection of an incomplete response is closed
            Self::Gate(link) => link.finish_request(job, release).await,
        }
    }

    /// Stops sending requests ahead, since the client of the current one reads its response slowly. The requests that were
    /// sent ahead are taken back by `release`. That returns `false` if the worker has begun
    /// one, and this returns `true`: the rest of the current response has arrived.
    pub(super) fn has_read_ahead(&self, release: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Http(_) => false,
            Self::Gate(link) => link.has_read_ahead(release),
        }
    }

    /// Logs what the application reports after its responses. The worker must have no request. Returns why its connection
    /// cannot be used any more.
    pub(super) async fn log_while_idle(&self) -> GateError {
        match self {
            Self::Http(_) => pending().await,
            Self::Gate(link) => link.log_while_idle().await,
        }
    }

    /// Returns whether the worker has no request and its connection can be used.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Http(_) => false, // not known
            Self::Gate(link) => link.is_idle(),
        }
    }

    /// Makes the worker, which has no request, the process that forks workers, with this socket for commands.
    ///
    /// # Errors
    /// Those of sendmsg(2), and `Unsupported`.
    pub(super) fn refork(&self, control: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::Http(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Gate(link) => link.refork(control),
        }
    }

    /// Returns whether the worker has violated the protocol, so that it must be stopped.
    pub(super) fn is_violated(&self) -> bool {
        match self {
            Self::Http(_) => false,
            Self::Gate(link) => link.is_violated(),
        }
    }

    /// Returns whether the worker may have ended, after the body of a response has failed.
    pub(super) fn is_disconnected(&self) -> bool {
        match self {
            Self::Http(_) => true,
            Self::Gate(link) => link.is_disconnected(),
        }
    }

    /// Closes the idle connection, whose last request was answered by the pool instead of the worker.
    pub(super) fn close_idle(&self) {
        match self {
            Self::Http(link) => link.close_idle(),
            Self::Gate(_) => {} // the worker has ended its request
        }
    }

    /// Closes all connections, before the worker is stopped.
    pub(super) fn close(&self) {
        match self {
            Self::Http(link) => link.close_idle(),
            Self::Gate(link) => link.close(),
        }
    }
}
