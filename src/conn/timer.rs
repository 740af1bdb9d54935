//! `Timer`: one timer for a connection, armed lazily, so that extending a deadline costs nothing.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Waker},
    time::Instant,
};

use pin_project::pin_project;
use tokio::time::Sleep;

/// A timer whose deadline is an argument of each poll.
///
/// A deadline that moves later, which happens with every request, does not touch the runtime's timer
/// wheel: the timer fires at the old time, and is re-armed then.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Pin<Box<Armed>>>);

#[pin_project]
#[derive(Debug)]
struct Armed {
    #[pin]
    sleep: Sleep,
    /// The waker that is registered with the sleep, until it has expired.
    waker: Option<Waker>,
}

impl Timer {
    /// Returns whether `deadline` has passed. If not, the task of `cx` is woken at that time or earlier.
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
            Box::pin(Armed { sleep, waker: None })
        });
        let mut armed = armed.as_mut().project();
        // `now` is not used: it may be older than the expiry of the sleep, which wakes a task only once.
        let is_armed_in_time =
            !armed.sleep.is_elapsed() && armed.sleep.deadline().into_std() <= deadline;
        if is_armed_in_time && let Some(waker) = armed.waker {
            if waker.will_wake(cx.waker()) {
                return false;
            }
            // A connection goes from task to task. To register another waker is cheaper than a reset.
            waker.clone_from(cx.waker());
            if !poll_sleep(armed.sleep.as_mut(), cx) {
                return false;
            }
        }
        armed.sleep.as_mut().reset(deadline.into());
        let passed = poll_sleep(armed.sleep, cx);
        *armed.waker = (!passed).then(|| cx.waker().clone());
        passed
    }
}

/// Returns whether the sleep has expired. If not, it wakes the task of `cx` then.
///
/// Outside of tokio's coop budget: a poll without budget registers no waker, and this one is not repeated.
fn poll_sleep(sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> bool {
    pin!(tokio::task::unconstrained(sleep)).poll(cx).is_ready()
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::{Poll, Wake},
        time::Duration,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn poll_that_began_before_expiry_does_not_wait_for_it() {
        let now = tokio::time::Instant::now().into_std();
        let deadline = Some(now + Duration::from_secs(5));
        let mut timer = Timer::default();
        assert!(!poll_fn(|cx| Poll::Ready(timer.poll(cx, deadline, now))).await);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let passed = poll_fn(|cx| Poll::Ready(timer.poll(cx, deadline, now))).await;
        assert!(passed, "no task would be woken");
    }

    #[tokio::test(start_paused = true)]
    async fn expired_timer_is_armed_again() {
        let start = tokio::time::Instant::now().into_std();
        let mut timer = Timer::default();
        // A poll that took long: its `now` is stale, so the timer fires before the deadline.
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

    #[tokio::test(start_paused = true)]
    async fn timer_that_goes_to_another_task_wakes_that_task() {
        let start = tokio::time::Instant::now().into_std();
        let after = |secs| Some(start + Duration::from_secs(secs));
        let mut timer = Timer::default();
        let [first, second] = [(); 2].map(|()| Arc::new(Flag::default()));
        let [first_waker, second_waker] = [&first, &second].map(|flag| Waker::from(flag.clone()));
        let mut first_task = Context::from_waker(&first_waker);
        let mut second_task = Context::from_waker(&second_waker);
        assert!(!timer.poll(&mut first_task, after(5), start));
        assert!(!timer.poll(&mut second_task, after(8), start));
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(second.take() && !first.take(), "it was armed for an earlier time");
        assert!(!timer.poll(&mut second_task, after(8), start + Duration::from_secs(6)));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(second.take(), "it was armed again");
    }

    /// Whether a task was woken.
    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Flag {
        fn take(&self) -> bool {
            self.0.swap(false, Ordering::Relaxed)
        }
    }

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
