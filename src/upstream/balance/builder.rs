//! `BalanceBuilder`: options of a `Balance`.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{Balance, Shared, set::Set};
use crate::{
    policy::{health::HealthOptions, pick::Pick},
    upstream::{
        endpoint::Endpoint,
        group::Group,
        queue::{Queue, QueueOptions},
    },
};

/// The handling of a request when there is no endpoint, or an operator has taken all endpoints out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptySet {
    /// The request fails at once with [`NoEndpoint`](crate::upstream::NoEndpoint), which becomes 503. So do requests
    /// that wait in the queue.
    #[default]
    Fail,
    /// The request waits in the [queue](BalanceBuilder::queue), for example while a program starts and its endpoints are not
    /// yet known. There must be a queue: without one, the default, the request fails at once with
    /// [`QueueError::Full`](crate::upstream::QueueError), which becomes 503.
    Wait,
}

/// Builds a [`Balance`]. The order of options does not matter.
///
/// ```
/// use vestibule::policy::{health::HealthOptions, pick::PeakEwma};
/// use vestibule::upstream::{BalanceBuilder, Endpoint, QueueOptions, Remote};
///
/// let endpoints = [Endpoint::from(Remote::new("10.0.0.1:3000")?), Remote::new("10.0.0.2:3000")?.into()];
/// let balance = BalanceBuilder::new()
///     .health(HealthOptions::new().consecutive_failures(3))
///     .queue(QueueOptions::new(1000))
///     .build(endpoints, PeakEwma::new());
/// # drop(balance);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct BalanceBuilder {
    health: HealthOptions,
    queue: QueueOptions,
    empty: EmptySet,
}

impl BalanceBuilder {
    /// Creates a builder with default options.
    pub const fn new() -> Self {
        Self { health: HealthOptions::new(), queue: QueueOptions::new(0), empty: EmptySet::Fail }
    }

    /// Sets when endpoints are ejected, and how they come back.
    pub const fn health(mut self, options: HealthOptions) -> Self {
        self.health = options;
        self
    }

    /// Sets the queue for requests while all endpoints are at their [limits](Endpoint::limits). Default: none, and a
    /// request fails at once with [`QueueError::Full`](crate::upstream::QueueError), which becomes 503.
    ///
    /// Requests do not overtake others of the same or a higher priority. So one that is sent again, and waits for an endpoint
    /// where it was not tried, keeps those behind it from other endpoints, at most until its timeout in the queue.
    pub const fn queue(mut self, options: QueueOptions) -> Self {
        self.queue = options;
        self
    }

    /// Sets how a request is handled when there is no endpoint. Default [`EmptySet::Fail`].
    /// [`Balance::set_empty`] changes it later.
    pub const fn empty(mut self, empty: EmptySet) -> Self {
        self.empty = empty;
        self
    }

    /// Creates the balancer of these endpoints.
    ///
    /// # Panics
    /// If two endpoints have the same key.
    pub fn build<S, P: Pick>(
        self,
        endpoints: impl IntoIterator<Item = Endpoint<S>>,
        policy: P,
    ) -> Balance<S, P> {
        let endpoints: Arc<[_]> = endpoints.into_iter().collect();
        let group = Group::new(self.health, Queue::new(self.queue));
        group.set_members(endpoints.iter().map(|endpoint| endpoint.handle().clone()).collect());
        Balance(Arc::new(Shared {
            set: ArcSwap::from_pointee(Set::new(endpoints, Arc::new(policy), group.options())),
            change: Mutex::default(),
            group: Arc::new(group),
            waits_if_empty: (self.empty == EmptySet::Wait).into(),
            open: watch::Sender::new(()),
        }))
    }
}

impl Default for BalanceBuilder {
    fn default() -> Self {
        Self::new()
    }
}
