//! `Balance::check`: runs a check for all endpoints of a balancer.

use std::{
    collections::HashMap,
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::Check;
use crate::{
    error::{BoxError, Chain},
    net::clock,
    policy::pick::Pick,
    upstream::{Balance, Endpoint, EndpointKey},
};

/// How often each endpoint is checked, unless set otherwise.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How long a check may take, unless set otherwise.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The shortest time between two checks.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// How long a set without endpoints is left alone.
const IDLE: Duration = Duration::from_secs(1);

/// How often endpoints are checked. How many results it takes to bring one down or up again is set by
/// [`fall`](crate::policy::health::HealthOptions::fall) and [`rise`](crate::policy::health::HealthOptions::rise).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct CheckOptions {
    interval: Duration,
    timeout: Duration,
    jitter_percent: u32,
}

impl CheckOptions {
    /// The defaults, which the methods name.
    pub const fn new() -> Self {
        Self { interval: CHECK_INTERVAL, timeout: CHECK_TIMEOUT, jitter_percent: 10 }
    }

    /// The time between two checks of an endpoint, at least 10 ms. Default [`CHECK_INTERVAL`].
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How long a check may take. Default [`CHECK_TIMEOUT`].
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// By which part of the interval a check comes sooner at most, in percent, so that gateways do not check in step.
    /// Default 10.
    pub const fn jitter(mut self, percent: u32) -> Self {
        self.jitter_percent = percent;
        self
    }

    /// The time until the next check: 0 of 1,024 parts of the jitter sooner, up to all of them.
    fn until_next(&self, parts: u32) -> Duration {
        let jitter = self.interval / 100 * self.jitter_percent.min(100);
        self.interval.saturating_sub(jitter / 1024 * parts).max(MIN_INTERVAL)
    }

    /// How long a check may take so that none of an endpoint begins before the last one has ended.
    fn limit(&self) -> Duration {
        self.timeout.min(self.until_next(1024))
    }
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// When each endpoint is to be checked; the first time at once.
#[derive(Default)]
struct Schedule {
    due: HashMap<EndpointKey, Instant>,
    random: RandomState,
    count: u64,
}

impl Schedule {
    /// The endpoints that are due now, and when the next one is.
    fn due<S: Clone>(
        &mut self,
        endpoints: &[Endpoint<S>],
        options: CheckOptions,
        now: Instant,
    ) -> (Vec<Endpoint<S>>, Instant) {
        self.due.retain(|key, _| endpoints.iter().any(|e| e.key() == key));
        let (mut due, mut next) = (Vec::new(), now + IDLE);
        for endpoint in endpoints {
            let at = self.due.entry(endpoint.key().clone()).or_insert(now);
            if *at <= now {
                self.count += 1;
                *at = now + options.until_next((self.random.hash_one(self.count) % 1024) as u32);
                due.push(endpoint.clone());
            }
            next = next.min(*at);
        }
        (due, next)
    }
}

impl<S, P> Balance<S, P>
where
    S: Clone + Send + Sync + 'static,
    P: Pick + 'static,
{
    /// Checks all endpoints again and again. Spawn the future as a task: it ends when the last clone of this balancer
    /// is dropped.
    ///
    /// An endpoint is up until [`fall`](crate::policy::health::HealthOptions::fall) checks in a row have failed, and
    /// gets requests again after [`rise`](crate::policy::health::HealthOptions::rise) that succeed. Both are events of
    /// the target `vestibule::upstream`: `endpoint down` at `WARN`, `endpoint up` at `INFO`. An endpoint is never
    /// checked twice at a time.
    pub fn check<C: Check<S>>(
        &self,
        check: C,
        options: CheckOptions,
    ) -> impl Future<Output = ()> + Send + use<C, S, P> {
        let (weak, mut is_open) = self.downgrade();
        let check = Arc::new(check);
        async move {
            let mut schedule = Schedule::default();
            let mut checks = JoinSet::new();
            loop {
                let Some(balance) = weak.upgrade() else { return };
                let (due, next) = schedule.due(&balance.endpoints(), options, clock::now());
                drop(balance);
                for endpoint in due {
                    checks.spawn(run(check.clone(), endpoint, options.limit()));
                }
                tokio::select! {
                    () = sleep_until(next.into()) => {}
                    _ = is_open.changed() => return,
                }
                while checks.try_join_next().is_some() {}
            }
        }
    }
}

async fn run<S: Send + Sync + Clone + 'static, C: Check<S>>(
    check: Arc<C>,
    endpoint: Endpoint<S>,
    limit: Duration,
) {
    let handle = endpoint.handle().clone();
    let result = match timeout(limit, check.check(endpoint)).await {
        Ok(result) => result,
        Err(_) => Err(BoxError::from(format!("no result within {limit:?}"))),
    };
    let now = clock::now();
    let is_change = handle.health().check(handle.age(now), result.is_ok(), &handle.options());
    let endpoint = handle.key();
    match result {
        Ok(()) if is_change => {
            tracing::info!(target: "vestibule::upstream", %endpoint, "endpoint up");
        }
        Ok(()) => {}
        Err(error) => {
            let error = Chain(&*error).to_string();
            if is_change {
                tracing::warn!(target: "vestibule::upstream", %endpoint, error, "endpoint down");
            }
            handle.note_error(format!("check: {error}"), now);
        }
    }
}
