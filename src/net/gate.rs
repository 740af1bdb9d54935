//! `Gate`: admits connections and requests only while there is capacity, and reserves none.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::Semaphore;

/// A capacity that may be used up.
pub trait Capacity: Send + Sync + 'static {
    /// Returns whether there is capacity now.
    fn is_free(&self) -> bool;

    /// Waits until there is capacity. It may be taken again before the caller uses it.
    fn freed(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Free permits are capacity. A closed semaphore counts as free: its users refuse requests at once, so these
/// need not wait.
impl Capacity for Semaphore {
    fn is_free(&self) -> bool {
        self.available_permits() > 0 || self.is_closed()
    }

    fn freed(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            drop(self.acquire().await); // released at once, so that the next waiter is woken
        })
    }
}

/// Decides whether the next connection is accepted and the next head is read.
///
/// While it is closed, clients wait in the kernel, where they cost almost nothing, instead of in this process
/// with a head, a body and a place in a queue. It reserves nothing: a request that passes may still find the
/// capacity taken, and then waits for the service's readiness as without a gate.
///
/// ```
/// use std::sync::Arc;
/// use tokio::sync::Semaphore;
/// use vestibule::net::Gate;
///
/// let permits = Arc::new(Semaphore::new(1));
/// let gate = Gate::new(permits.clone());
/// assert!(gate.is_open());
/// let permit = permits.try_acquire().unwrap();
/// assert!(!gate.is_open());
/// drop(permit);
/// assert!(gate.is_open());
/// ```
#[derive(Clone, Default)]
pub struct Gate {
    capacity: Option<Arc<dyn Capacity>>,
    total: Option<usize>,
}

impl Gate {
    /// Creates a gate that is open while `capacity` is free.
    pub fn new(capacity: Arc<impl Capacity>) -> Self {
        Self { capacity: Some(capacity), total: None }
    }

    /// Creates a gate that is always open, the default.
    pub fn always_open() -> Self {
        Self::default()
    }

    /// Sets how many requests the capacity admits in total, including those that wait. A connection of HTTP/2
    /// announces no more concurrent streams than that, so that its client keeps further requests. Defaults to
    /// unknown; the gate of a worker pool has it.
    #[must_use]
    pub fn total(mut self, requests: usize) -> Self {
        self.total = Some(requests);
        self
    }

    /// Returns how many requests the capacity admits in total, if that is known.
    #[cfg_attr(not(feature = "h2"), allow(dead_code, reason = "announced by HTTP/2"))]
    pub(crate) fn max_requests(&self) -> Option<usize> {
        self.total
    }

    /// Returns whether it is open.
    pub fn is_open(&self) -> bool {
        self.capacity.as_ref().is_none_or(|c| c.is_free())
    }

    /// Waits until the gate is open.
    pub async fn opened(&self) {
        if let Some(capacity) = &self.capacity
            && !capacity.is_free()
        {
            capacity.clone().freed().await;
        }
    }

    /// Polls whether the gate is open. If not, the task of `cx` is woken when it opens, unless `waiter` is
    /// dropped before. A new waiter is `GateWaiter::default()`.
    pub fn poll_opened(&self, waiter: &mut GateWaiter, cx: &mut Context<'_>) -> Poll<()> {
        let Some(capacity) = &self.capacity else { return Poll::Ready(()) };
        if waiter.0.is_none() && capacity.is_free() {
            return Poll::Ready(());
        }
        let freed = waiter.0.get_or_insert_with(|| capacity.clone().freed());
        let poll = freed.as_mut().poll(cx);
        if poll.is_ready() {
            waiter.0 = None;
        }
        poll
    }
}

/// A task's registration at a closed [`Gate`].
#[derive(Default)]
pub struct GateWaiter(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl GateWaiter {
    /// Returns whether it waits at a gate.
    pub fn is_waiting(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

impl fmt::Debug for GateWaiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateWaiter").field("is_waiting", &self.is_waiting()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[tokio::test]
    async fn waiter_at_gate_takes_no_permit() {
        let permits = Arc::new(Semaphore::new(1));
        let gate = Gate::new(permits.clone());
        gate.opened().await;
        let permit = permits.clone().acquire_owned().await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiters = [const { GateWaiter(None) }; 3];
        for w in &mut waiters {
            assert!(gate.poll_opened(w, &mut cx).is_pending() && w.is_waiting());
        }
        let mut reserved = std::pin::pin!(permits.acquire());
        assert!(reserved.as_mut().poll(&mut cx).is_pending());
        drop(permit);
        for w in &mut waiters {
            assert!(gate.poll_opened(w, &mut cx).is_ready() && !w.is_waiting());
        }
        assert!(reserved.poll(&mut cx).is_ready(), "every waiter passed its permit on");
    }

    #[tokio::test]
    async fn dropped_waiter_delays_no_other() {
        let permits = Arc::new(Semaphore::new(1));
        let gate = Gate::new(permits.clone());
        let permit = permits.clone().acquire_owned().await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (GateWaiter::default(), GateWaiter::default());
        assert!(gate.poll_opened(&mut first, &mut cx).is_pending());
        assert!(gate.poll_opened(&mut second, &mut cx).is_pending());
        drop(permit);
        drop(first);
        assert!(gate.poll_opened(&mut second, &mut cx).is_ready());
        assert!(permits.try_acquire().is_ok());
    }

    #[test]
    fn gate_of_closed_semaphore_is_open() {
        let permits = Arc::new(Semaphore::new(0));
        let gate = Gate::new(permits.clone());
        assert!(!gate.is_open());
        permits.close();
        assert!(gate.is_open());
    }
}
