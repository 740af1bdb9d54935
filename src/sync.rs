//! The locks and atomics of types that threads share: those of std, or those of loom when it runs the models of
//! these types (`VESTIBULE_LOOM=1`, see CONTRIBUTING.md).

#[cfg(vestibule_loom)]
use loom::sync as primitives;
#[cfg(not(vestibule_loom))]
use std::sync as primitives;

#[cfg(feature = "server")]
pub(crate) use primitives::atomic::{AtomicU8, AtomicUsize, fence};
pub(crate) use primitives::{Mutex, MutexGuard, atomic::AtomicU64};
#[cfg(all(feature = "server", not(vestibule_loom)))]
pub(crate) use tokio::sync::Semaphore;

#[cfg(all(feature = "server", vestibule_loom))]
pub(crate) use semaphore::Semaphore;

/// Tokio's semaphore with a step of the model before each operation. At a step loom may switch to another thread,
/// which sees all earlier operations.
#[cfg(all(feature = "server", vestibule_loom))]
mod semaphore {
    use std::sync::atomic::Ordering::AcqRel;

    use tokio::sync::{AcquireError, SemaphorePermit, TryAcquireError};

    use super::AtomicUsize;

    #[derive(Debug)]
    pub(crate) struct Semaphore {
        inner: tokio::sync::Semaphore,
        steps: AtomicUsize,
    }

    impl Semaphore {
        pub(crate) const MAX_PERMITS: usize = tokio::sync::Semaphore::MAX_PERMITS;

        pub(crate) fn new(permits: usize) -> Self {
            Self { inner: tokio::sync::Semaphore::new(permits), steps: AtomicUsize::new(0) }
        }

        fn step(&self) -> &tokio::sync::Semaphore {
            self.steps.fetch_add(1, AcqRel);
            &self.inner
        }

        pub(crate) fn try_acquire(&self) -> Result<SemaphorePermit<'_>, TryAcquireError> {
            self.step().try_acquire()
        }

        pub(crate) async fn acquire(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
            self.step().acquire().await
        }

        pub(crate) fn available_permits(&self) -> usize {
            self.step().available_permits()
        }

        pub(crate) fn add_permits(&self, n: usize) {
            self.step().add_permits(n);
        }

        pub(crate) fn forget_permits(&self, n: usize) -> usize {
            self.step().forget_permits(n)
        }
    }
}

/// What the models use of loom, which runs each in every order of its steps.
#[cfg(all(test, vestibule_loom))]
pub(crate) mod model {
    pub(crate) use loom::{future::block_on, model, thread};
}

/// The same with threads of std. So the models are compiled and run by every `cargo test`, although not in every
/// order.
#[cfg(all(test, not(vestibule_loom)))]
pub(crate) mod model {
    pub(crate) use std::thread;
    use std::{
        pin::pin,
        sync::Arc,
        task::{Context, Poll, Wake, Waker},
    };

    pub(crate) fn model(run: impl Fn() + Send + Sync + 'static) {
        const RUNS: usize = 100;
        (0..RUNS).for_each(|_| run());
    }

    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[cfg_attr(not(feature = "worker"), allow(dead_code, reason = "for models of the queue"))]
    pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let (mut future, mut cx) = (pin!(future), Context::from_waker(&waker));
        loop {
            match future.as_mut().poll(&mut cx) {
                Poll::Ready(output) => return output,
                Poll::Pending => thread::park(),
            }
        }
    }
}
