//! One timer for a connection, armed lazily: moving a deadline away costs nothing.

use std::{
    pin::Pin,
    task::{Context, Waker},
    time::Instant,
};

use pin_project::pin_project;
use tokio::time::Sleep;

/// A timer whose deadline is told anew at each poll.
///
/// While deadlines only move away, which they do with every request, the runtime's timer wheel is
/// not touched: the timer goes off at the old time, and is armed anew then.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Pin<Box<Armed>>>);

#[pin_project]
#[derive(Debug)]
struct Armed {
    #[pin]
    sleep: Sleep,
    /// Whom the sleep wakes.
    waker: Waker,
}

impl Timer {
    /// Has `deadline` passed? If not, the task of `cx` will be woken at it, or before.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
        now: Instant,
    ) -> bool {
        let Some(deadline) = deadline else { return false };
        if deadline <= now {
            return true;
        }
        let armed = self.0.get_or_insert_with(|| {
            let sleep = tokio::time::sleep_until(deadline.into());
            Box::pin(Armed { sleep, waker: Waker::noop().clone() })
        });
        let mut armed = armed.as_mut().project();
        // Not by `now`: it may be from before the sleep went off, and who was woken then will not be
        // woken again.
        let is_armed_in_time =
            !armed.sleep.is_elapsed() && armed.sleep.deadline().into_std() <= deadline;
        if is_armed_in_time && armed.waker.will_wake(cx.waker()) {
            return false;
        }
        armed.waker.clone_from(cx.waker());
        armed.sleep.as_mut().reset(deadline.into());
        // Outside of the task's budget: a poll that the budget cuts short registers nothing, and
        // this one will not be repeated.
        let mut sleep = tokio::task::unconstrained(armed.sleep);
        let passed = Pin::new(&mut sleep).poll(cx).is_ready();
        if passed {
            *armed.waker = Waker::noop().clone(); // it wakes nobody any more
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn poll_that_began_before_expiry_does_not_wait_for_it() {
        let now = tokio::time::Instant::now().into_std();
        let deadline = Some(now + Duration::from_secs(5));
        let mut timer = Timer::default();
        assert!(!poll_fn(|cx| Poll::Ready(timer.poll(cx, deadline, now))).await);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let passed = poll_fn(|cx| Poll::Ready(timer.poll(cx, deadline, now))).await;
        assert!(passed, "nobody would be woken");
    }

    #[tokio::test(start_paused = true)]
    async fn expired_timer_is_armed_again() {
        let start = tokio::time::Instant::now().into_std();
        let mut timer = Timer::default();
        // A poll that took long: its `now` is stale, and the timer goes off "too early".
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            if polls > 1 {
                return Poll::Ready(());
            }
            assert!(timer.poll(cx, Some(start + Duration::from_millis(500)), start));
            assert!(!timer.poll(cx, Some(start + Duration::from_secs(5)), start));
            Poll::Pending
        })
        .await;
        assert_eq!(tokio::time::Instant::now().into_std() - start, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn deadline_that_moves_nearer_is_kept() {
        let start = tokio::time::Instant::now().into_std();
        let mut timer = Timer::default();
        let mut deadline = start + Duration::from_secs(60);
        poll_fn(|cx| {
            let now = tokio::time::Instant::now().into_std();
            let passed = timer.poll(cx, Some(deadline), now);
            if deadline > start + Duration::from_secs(2) {
                deadline = start + Duration::from_secs(2);
                cx.waker().wake_by_ref();
            }
            if passed { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert_eq!(tokio::time::Instant::now().into_std() - start, Duration::from_secs(2));
    }
}
