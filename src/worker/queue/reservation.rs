//! `Reservation`: the permit that a ready handle holds for its next call.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::{closed, queue_timeout};
use crate::error::Error;

/// The result of `poll_ready` for the next call.
#[derive(Default)]
pub(crate) enum Reservation {
    #[default]
    None,
    Waiting(Waiting),
    Held(Permit),
    /// No permit was free within the queue timeout, or the pool is closed.
    Refused(Error),
}

/// A permit, and the rest of the queue timeout.
pub(crate) struct Permit {
    pub(crate) permit: OwnedSemaphorePermit,
    pub(crate) remaining: Duration,
}

pub(crate) struct Waiting {
    since: Instant,
    acquire: Pin<Box<Acquire>>,
}

/// `None` when the queue timeout has passed.
type Acquire =
    dyn Future<Output = Option<Result<OwnedSemaphorePermit, AcquireError>>> + Send + Sync;

impl Reservation {
    /// Waits for a permit, at most for `timeout`. A refusal that no call has taken ends when a permit is free.
    pub(crate) fn poll(
        &mut self,
        permits: &Arc<Semaphore>,
        timeout: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if matches!(self, Self::None | Self::Refused(_)) {
            let acquired = Self::try_acquire(permits, timeout);
            let is_refused = matches!(self, Self::Refused(_));
            if !(is_refused && matches!(acquired, Self::None)) {
                *self = acquired;
            }
        }
        if matches!(self, Self::None) {
            *self = Self::wait(permits, timeout);
        }
        if let Self::Waiting(waiting) = self {
            let acquired = ready!(waiting.acquire.as_mut().poll(cx));
            let remaining = timeout.saturating_sub(waiting.since.elapsed());
            *self = match acquired {
                Some(Ok(permit)) => Self::Held(Permit { permit, remaining }),
                Some(Err(_)) => Self::Refused(closed()),
                None => Self::Refused(queue_timeout()),
            };
        }
        Poll::Ready(())
    }

    /// Takes the permit for a call. Without a reservation it takes a free one.
    ///
    /// # Errors
    /// `Kind::Overloaded` if no permit is free.
    pub(crate) fn take(
        &mut self,
        permits: &Arc<Semaphore>,
        timeout: Duration,
    ) -> Result<Permit, Error> {
        let mut taken = mem::take(self);
        if matches!(taken, Self::None | Self::Waiting(_)) {
            taken = Self::try_acquire(permits, timeout);
        }
        match taken {
            Self::Held(permit) => Ok(permit),
            Self::Refused(error) => Err(error),
            Self::None | Self::Waiting(_) => Err(queue_timeout()),
        }
    }

    fn try_acquire(permits: &Arc<Semaphore>, timeout: Duration) -> Self {
        match permits.clone().try_acquire_owned() {
            Ok(permit) => Self::Held(Permit { permit, remaining: timeout }),
            Err(TryAcquireError::Closed) => Self::Refused(closed()),
            Err(TryAcquireError::NoPermits) => Self::None,
        }
    }

    fn wait(permits: &Arc<Semaphore>, timeout: Duration) -> Self {
        let acquire = tokio::time::timeout(timeout, permits.clone().acquire_owned());
        let acquire = Box::pin(async { acquire.await.ok() });
        Self::Waiting(Waiting { since: Instant::now(), acquire })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn refusal_ends_when_a_permit_is_free() {
        let permits = Arc::new(Semaphore::new(1));
        let permit = permits.clone().try_acquire_owned().unwrap();
        let mut reservation = Reservation::None;
        for _ in 0..2 {
            // The first one waits for the timeout.
            poll_fn(|cx| reservation.poll(&permits, TIMEOUT, cx)).await;
            assert!(matches!(reservation, Reservation::Refused(_)));
        }
        drop(permit);
        poll_fn(|cx| reservation.poll(&permits, TIMEOUT, cx)).await;
        assert!(reservation.take(&permits, TIMEOUT).is_ok());
    }
}
