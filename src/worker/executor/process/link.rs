//! `Link`: the exchange of requests and responses with one worker process, by its protocol.

mod gate;
mod http;

use std::sync::Arc;

pub(super) use self::{gate::GateLink, http::HttpLink};
use super::super::super::queue::job::{Answer, Job};
use crate::{
    Request,
    conn::{Delivery, h1::client::Cause},
    error::{BoxError, Error, Kind},
};

/// The way to one worker.
pub(super) enum Link {
    Http(HttpLink),
    Gate(GateLink),
}

/// A request that was not answered.
pub(super) struct Failed {
    /// The request, if it is whole.
    pub(super) request: Option<Request>,
    pub(super) delivery: Delivery,
    /// Whether the worker must be ended: it takes no connections any more, or has violated the protocol.
    pub(super) is_refused: bool,
    pub(super) error: BoxError,
}

impl Failed {
    /// The process has ended, and its connection has not.
    pub(super) fn ended() -> Self {
        Self {
            request: None,
            delivery: Delivery::MaybeSent,
            is_refused: false,
            error: Error::new(Kind::BadGateway, Cause::Closed).into(),
        }
    }
}

impl Link {
    /// Sends a request and waits for the head of its response, or for the error of the application.
    pub(super) async fn exchange(
        &self,
        request: Request,
        job: &Arc<Job>,
    ) -> Result<Answer, Failed> {
        match self {
            Self::Http(link) => link.exchange(request).await.map(Ok),
            Self::Gate(link) => link.exchange(request, job).await,
        }
    }

    /// Waits until the worker is ready. `problem` has what the last check has found.
    pub(super) async fn wait_ready(&self, problem: &mut String) {
        match self {
            Self::Http(link) => link.wait_ready(problem).await,
            Self::Gate(link) => link.wait_ready(problem).await,
        }
    }

    /// Whether the worker is ready once its program runs.
    pub(super) fn is_started(&self) -> bool {
        match self {
            Self::Http(link) => link.is_started(),
            Self::Gate(_) => false,
        }
    }

    /// Whether the pool gives the worker no requests.
    pub(super) fn is_independent(&self) -> bool {
        match self {
            Self::Http(link) => link.is_independent(),
            Self::Gate(_) => false,
        }
    }

    /// Waits until others do not use the worker, which is to be ended, any more.
    pub(super) async fn retire(&self) {
        match self {
            Self::Http(link) => link.retire().await,
            Self::Gate(_) => {}
        }
    }

    /// Waits until the worker has ended a request whose response was not read to its end.
    pub(super) async fn settle(&self, job: &Job) {
        match self {
            Self::Http(_) => {} // its connection was closed
            Self::Gate(link) => link.settle(job).await,
        }
    }

    /// Whether the worker has violated its protocol, so that it must be ended.
    pub(super) fn is_violated(&self) -> bool {
        match self {
            Self::Http(_) => false,
            Self::Gate(link) => link.is_violated(),
        }
    }

    /// Whether the worker may have ended: a response has broken off.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Http(_) => true,
            Self::Gate(link) => link.is_lost(),
        }
    }

    /// Closes the connection that is kept: a request on it was answered in the worker's place.
    pub(super) fn close_idle(&self) {
        match self {
            Self::Http(link) => link.close_idle(),
            Self::Gate(_) => {} // the worker has ended its request
        }
    }

    /// Closes everything: the worker is to end.
    pub(super) fn close(&self) {
        match self {
            Self::Http(link) => link.close_idle(),
            Self::Gate(link) => link.close(),
        }
    }
}
