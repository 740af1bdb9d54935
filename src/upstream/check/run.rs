//! `Balance::check`: runs a check for all endpoints of a balancer.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    error::Error as StdError,
    future::{Future, poll_fn},
    hash::{BuildHasher, RandomState},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::Check;
use crate::{
    error::{BoxError, Chain, panic_message},
    net::{clock, is_exhausted},
    policy::pick::Pick,
    upstream::{Balance, Endpoint, EndpointKey},
};

/// Default interval of the checks of an endpoint: 5 s.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Default timeout of a check: 2 s.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Minimum time between two checks: 10 ms.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Maximum time between two checks: one year, since an `Instant` cannot hold an arbitrary `Duration`.
const MAX_INTERVAL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Time until an empty set is checked again: 1 s.
const IDLE: Duration = Duration::from_secs(1);

/// The interval and timeout of checks. The number of results that change the state of an endpoint is set by
/// [`fall`](crate::policy::health::HealthOptions::fall) and [`rise`](crate::policy::health::HealthOptions::rise).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct CheckOptions {
    interval: Duration,
    timeout: Duration,
    jitter_percent: u32,
}

impl CheckOptions {
    /// Creates the options with the defaults that are documented at each method.
    pub const fn new() -> Self {
        Self { interval: CHECK_INTERVAL, timeout: CHECK_TIMEOUT, jitter_percent: 10 }
    }

    /// Sets the time between two checks of an endpoint, at least 10 ms. Default [`CHECK_INTERVAL`].
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the timeout of a check. Default [`CHECK_TIMEOUT`].
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the maximum random reduction of the interval, in percent, so that several gateways do not check at the
    /// same time. Default 10.
    pub const fn jitter(mut self, percent: u32) -> Self {
        self.jitter_percent = percent;
        self
    }

    /// Returns the time until the next check. `parts`, from 0 to 1,024, is the random share of the jitter.
    fn until_next(&self, parts: u32) -> Duration {
        let jitter = self.interval / 100 * self.jitter_percent.min(100);
        self.interval.saturating_sub(jitter / 1024 * parts).clamp(MIN_INTERVAL, MAX_INTERVAL)
    }

    /// Returns the timeout of a check, at which it ends before the next one of the same endpoint begins.
    fn limit(&self) -> Duration {
        self.timeout.min(self.until_next(1024))
    }
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// The time of the next check of each endpoint; the first one is immediate.
struct Schedule<S> {
    /// The set of the last call, to notice another one.
    set: Weak<[Endpoint<S>]>,
    keys: Vec<EndpointKey>,
    /// The next checks, with the index of the endpoint. The earliest is on top.
    next: BinaryHeap<Reverse<(Instant, usize)>>,
    random: RandomState,
    count: u64,
}

impl<S: Clone> Schedule<S> {
    fn new() -> Self {
        let set: Weak<[Endpoint<S>; 0]> = Weak::new();
        let (keys, next) = (Vec::new(), BinaryHeap::new());
        Self { set, keys, next, random: RandomState::new(), count: 0 }
    }

    /// Returns the endpoints that are due now, and the time of the next check.
    fn due(
        &mut self,
        endpoints: &Arc<[Endpoint<S>]>,
        options: CheckOptions,
        now: Instant,
    ) -> (Vec<Endpoint<S>>, Instant) {
        // The weak reference keeps the address from being used for another set.
        if !self.set.ptr_eq(&Arc::downgrade(endpoints)) {
            self.follow(endpoints, now);
        }
        let mut due = Vec::new();
        while let Some(mut first) = self.next.peek_mut()
            && first.0.0 <= now
        {
            self.count += 1;
            let parts = (self.random.hash_one(self.count) % 1024) as u32;
            due.push(endpoints[first.0.1].clone());
            first.0.0 = now + options.until_next(parts);
        }
        let idle = now + IDLE;
        (due, self.next.peek().map_or(idle, |first| first.0.0.min(idle)))
    }

    /// Takes over another set, in which known endpoints keep their times.
    fn follow(&mut self, endpoints: &Arc<[Endpoint<S>]>, now: Instant) {
        let keys = std::mem::take(&mut self.keys);
        let known: HashMap<&EndpointKey, Instant> =
            self.next.iter().map(|Reverse((at, index))| (&keys[*index], *at)).collect();
        let at = |endpoint: &Endpoint<S>| known.get(endpoint.key()).copied().unwrap_or(now);
        let next = endpoints.iter().enumerate().map(|(index, e)| Reverse((at(e), index)));
        self.next = next.collect();
        self.keys = endpoints.iter().map(|endpoint| endpoint.key().clone()).collect();
        self.set = Arc::downgrade(endpoints);
    }
}

impl<S, P> Balance<S, P>
where
    S: Clone + Send + Sync + 'static,
    P: Pick + 'static,
{
    /// Checks all endpoints periodically. Spawn the future as a task: it ends when the last clone of this balancer is
    /// dropped.
    ///
    /// An endpoint is down after [`fall`](crate::policy::health::HealthOptions::fall) consecutive failed checks, and
    /// up again after [`rise`](crate::policy::health::HealthOptions::rise) successful ones. Both are logged with the
    /// target `vestibule::upstream`: `endpoint down` at `WARN`, `endpoint up` at `INFO`. The checks of an endpoint
    /// never overlap. A check that panics has failed, and is logged as well, at `ERROR`. One that fails since this process
    /// is out of descriptors or memory does not count.
    ///
    /// An endpoint counts the results of its checks together, so run one such task for a balancer: of two, the successes of
    /// one keep an endpoint up that fails the other. A [`Check`] may combine several. An endpoint that is down when the task
    /// is aborted stays down.
    pub fn check<C: Check<S>>(
        &self,
        check: C,
        options: CheckOptions,
    ) -> impl Future<Output = ()> + Send + use<C, S, P> {
        let (weak, mut is_open) = self.downgrade();
        let check = Arc::new(check);
        async move {
            let mut schedule = Schedule::new();
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

/// Runs a future, and returns the message of its panic if it panics.
async fn catch_panics<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        // The future is not polled again after a panic.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_message(&*panic).to_owned())),
        }
    })
    .await
}

async fn run<S: Send + Sync + Clone + 'static, C: Check<S>>(
    check: Arc<C>,
    endpoint: Endpoint<S>,
    limit: Duration,
) {
    let handle = endpoint.handle().clone();
    let checked = catch_panics(async { check.check(endpoint).await });
    let result = match timeout(limit, checked).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            let endpoint = handle.key();
            tracing::error!(target: "vestibule::upstream", %endpoint, panic, "a health check panicked");
            Err(BoxError::from(format!("panicked: {panic}")))
        }
        Err(_) => Err(BoxError::from(format!("no result within {limit:?}"))),
    };
    let now = clock::now();
    let is_valid = !matches!(&result, Err(error) if is_caused_by_exhaustion(&**error));
    let is_change =
        is_valid && handle.health().check(handle.age(now), result.is_ok(), &handle.options());
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

/// Returns whether a cause of the error is that this process is out of descriptors or memory: then the check says nothing
/// about the endpoint.
fn is_caused_by_exhaustion(error: &(dyn StdError + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(is_exhausted) {
            return true;
        }
        // The source of an io::Error is that of its payload, which skips the payload itself.
        at = match io.and_then(io::Error::get_ref) {
            Some(payload) => Some(payload),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_shortens_the_interval_by_at_most_its_share() {
        let options = CheckOptions::new().interval(Duration::from_secs(100)).jitter(10);
        assert_eq!(options.until_next(0), Duration::from_secs(100));
        assert_eq!(options.until_next(512), Duration::from_secs(95));
        assert_eq!(options.until_next(1024), Duration::from_secs(90));
        assert_eq!(options.jitter(1000).until_next(1024), MIN_INTERVAL);
    }

    #[test]
    fn unbounded_interval_checks_each_endpoint_once() {
        let options = CheckOptions::new().interval(Duration::MAX).jitter(0);
        let (mut schedule, now) = (Schedule::new(), clock::now());
        let endpoints: Arc<[_]> = [Endpoint::new("a", ())].into();
        assert_eq!(schedule.due(&endpoints, options, now).0.len(), 1);
        let later = now + Duration::from_secs(24 * 60 * 60);
        assert_eq!(schedule.due(&endpoints, options, later).0.len(), 0);
    }

    #[test]
    fn schedule_checks_each_endpoint_once_per_interval_through_changes() {
        let second = Duration::from_secs(1);
        let options = CheckOptions::new().interval(10 * second).jitter(0);
        let set = |keys: &[&str]| -> Arc<[_]> {
            keys.iter().map(|&key| Endpoint::new(key, ())).collect()
        };
        let (mut schedule, begin) = (Schedule::new(), clock::now());
        let mut due = |set: &Arc<[_]>, after: u32| {
            let now = begin + after * second;
            let (due, next) = schedule.due(set, options, now);
            let mut due: Vec<_> = due.iter().map(|e| e.key().as_str().to_owned()).collect();
            due.sort();
            (due.concat(), next - begin)
        };
        let (abc, cad) = (set(&["a", "b", "c"]), set(&["c", "a", "d"]));
        assert_eq!(due(&set(&[]), 0), (String::new(), second));
        assert_eq!(due(&abc, 1), ("abc".into(), 2 * second));
        assert_eq!(due(&abc, 5), (String::new(), 6 * second));
        assert_eq!(due(&cad, 6), ("d".into(), 7 * second));
        assert_eq!(due(&cad, 11), ("ac".into(), 12 * second));
        assert_eq!(due(&abc, 12), ("b".into(), 13 * second), "it was not known any more");
        assert_eq!(due(&abc, 21), ("ac".into(), 22 * second));
    }
}
