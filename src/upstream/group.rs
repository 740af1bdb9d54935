//! `Group`: the shared state of the endpoints of one `Balance`, independent of the type of their service.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use super::{endpoint::EndpointHandle, queue::Queue};
use crate::{
    net::clock,
    policy::health::{HealthOptions, outliers},
};

/// Maximum age of a count of healthy endpoints: 100 ms. An ejection makes it invalid at once, but ejections also end
/// by themselves.
const COUNT_TTL: Duration = Duration::from_millis(100);

/// The handles of the endpoints, the number of their requests in flight, and the queue.
#[derive(Debug)]
pub(super) struct Group {
    members: ArcSwap<Vec<EndpointHandle>>,
    options: ArcSwap<HealthOptions>,
    in_flight: AtomicUsize,
    pub(super) queue: Queue,
    born: Instant,
    /// Milliseconds since `born`.
    counted_at: AtomicU64,
    is_panic: AtomicBool,
    swept_at: AtomicU64,
}

impl Group {
    pub(super) fn new(options: HealthOptions, queue: Queue) -> Self {
        Self {
            members: ArcSwap::default(),
            options: ArcSwap::from_pointee(options),
            in_flight: AtomicUsize::new(0),
            queue,
            born: clock::now(),
            counted_at: AtomicU64::new(0),
            is_panic: AtomicBool::new(false),
            swept_at: AtomicU64::new(0),
        }
    }

    /// Replaces the members. New ones get the options of the group.
    pub(super) fn set_members(&self, members: Vec<EndpointHandle>) {
        let options = self.options.load_full();
        members.iter().for_each(|member| member.set_options(options.clone()));
        self.members.store(Arc::new(members));
        self.recount();
        self.queue.wake();
    }

    pub(super) fn options(&self) -> Arc<HealthOptions> {
        self.options.load_full()
    }

    pub(super) fn set_options(&self, options: &Arc<HealthOptions>) {
        self.options.store(options.clone());
        self.members.load().iter().for_each(|member| member.set_options(options.clone()));
        self.recount();
    }

    /// Returns the number of requests in flight at all endpoints.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Counts a request that begins.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// Counts a request that ends, and wakes a queued one.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.queue.wake();
    }

    /// Returns whether one more endpoint may be ejected for failures or as an outlier.
    pub(super) fn may_eject(&self, now: Instant) -> bool {
        let (healthy, total) = self.count_healthy(now);
        self.options().may_eject(healthy, total)
    }

    /// Returns how many endpoints are healthy, and how many there are, without those that an operator drains or has
    /// taken out.
    fn count_healthy(&self, now: Instant) -> (usize, usize) {
        let (mut healthy, mut total) = (0, 0);
        for member in self.members.load().iter() {
            if member.is_in(now) && !member.is_draining() {
                total += 1;
                healthy += usize::from(member.is_healthy(now));
            }
        }
        (healthy, total)
    }

    /// Invalidates the count of healthy endpoints.
    pub(super) fn recount(&self) {
        self.counted_at.store(0, Relaxed);
    }

    /// Returns whether so few endpoints are healthy that requests also go to the others (panic mode).
    pub(super) fn is_panic(&self, now: Instant, options: &HealthOptions) -> bool {
        if !options.has_panic_share() {
            return false; // the balancer itself handles the case that none is healthy
        }
        let (at, counted) = (self.millis(now), self.counted_at.load(Relaxed));
        if counted != 0 && at.saturating_sub(counted) < COUNT_TTL.as_millis() as u64 {
            return self.is_panic.load(Relaxed);
        }
        let (healthy, total) = self.count_healthy(now);
        let is_panic = options.is_panic(healthy, total);
        self.is_panic.store(is_panic, Relaxed);
        self.counted_at.store(at, Relaxed);
        is_panic
    }

    /// Compares the endpoints with each other once per interval, and ejects outliers.
    pub(super) fn sweep(&self, now: Instant, options: &HealthOptions) {
        if !options.has_outliers() {
            return;
        }
        let (at, last) = (self.millis(now), self.swept_at.load(Relaxed));
        let is_due = at.saturating_sub(last) >= options.interval.as_millis() as u64;
        if !is_due || self.swept_at.compare_exchange(last, at, Relaxed, Relaxed).is_err() {
            return;
        }
        let members = self.members.load();
        let samples: Vec<_> = members.iter().map(EndpointHandle::take_sample).collect();
        for index in outliers(&samples, options) {
            let member = &members[index];
            if self.may_eject(now) && member.health().eject_outlier(member.age(now), options) {
                let (endpoint, sample) = (member.key(), samples[index]);
                let latency = sample.mean_latency();
                let error = format!(
                    "outlier: {} of {} requests failed, mean latency {latency:?}",
                    sample.failures, sample.requests,
                );
                tracing::warn!(target: "vestibule::upstream", %endpoint, error, "endpoint ejected");
                member.note_error(error, now);
                self.recount();
            }
        }
    }

    /// Returns the time since the group was created, in milliseconds; never 0.
    fn millis(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born);
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}
