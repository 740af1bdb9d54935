//! The contract of a worker pool, for workers of every kind.
//!
//! Each test is generic over a [`Placement`], which starts a pool of scripted applications. The whole suite applies
//! to a new executor with an implementation of that trait and a line of `contract_tests!`.

mod bodies;
#[cfg(feature = "process")]
pub(super) mod child;
pub(super) mod control;
mod end;
#[cfg(feature = "process")]
mod lanes;
pub(super) mod load;
#[cfg(feature = "process")]
mod php;
mod placement;
#[cfg(feature = "process")]
pub(super) mod processes;
#[cfg(feature = "process")]
pub(super) mod python;
mod queue;
mod renewal;
mod restart;
mod scale;
mod timeout;

use std::time::Duration;

use http::Method;
use tower::{Service, ServiceExt};

use super::{super::*, LONG, cause, get, kind, text, with_deadline};
use crate::{BoxError, Error, Request, Response, error::Kind, net::Gate};

/// A pool for a test, and the control over its applications.
///
/// The path of a request selects the behaviour of the application:
///
/// | path | |
/// |---|---|
/// | `/hold...` | waits until it is [released](Self::release) |
/// | `/panic` | panics |
/// | `/fail` | returns the error "failed" |
/// | `/stream...` | sends "abc"; when released "def" with the trailer `x-sum: 6`, of 6 bytes in all |
/// | `/endless` | sends "abc" and then waits without blocking, also if it is released |
/// | `/break` | sends "abc" and, when released, ends the body with an error |
/// | `/stream-hold` | sends "abc", then blocks until released |
/// | `/stream-panic` | sends "abc", then panics |
///
/// A process also knows `/memory` and `/memory-hold`, which waits until it is released: both take 64 MiB first.
///
/// All others, and `/hold` when it is released, answer with the path and the number of the instance:
/// `/path 0`.
///
/// `/panic` is sent with `POST`, all others with `GET`.
pub(super) trait Placement: Sized {
    type Handle: Handle;

    /// The number of requests that a worker of [`Settings`] runs at a time. The figures of the pool count each of them as a
    /// worker.
    const LANES: usize = 1;

    /// A time that a test waits for, and that is sufficient for a response.
    const SHORT: Duration;

    /// The length of the body of `/stream` after its first piece, as far as it is known.
    const STREAM_LEFT: Option<u64>;

    /// Whether a streamed body has trailers.
    const HAS_TRAILERS: bool;

    /// Checks the error of a request that has ended its worker.
    fn assert_crashed(error: &BoxError);

    /// Checks the error of a body that its application has aborted.
    fn assert_broken(error: &BoxError);

    /// Starts a pool.
    fn start(settings: Settings) -> Result<Self, Error>;

    fn handle(&self) -> &Self::Handle;

    /// Waits for the next request that an application begins; returns its path.
    async fn entered(&mut self) -> String;

    /// Returns whether a request was begun that [`entered`](Self::entered) has not returned.
    fn has_entered(&mut self) -> bool;

    /// Waits until the application is built for the `n`-th time (from 0) or fails to be.
    async fn built(&mut self, n: usize);

    /// Returns how often a build was begun.
    fn builds(&self) -> usize;

    /// Releases the request of this path, or the build of this name, now or later.
    fn release(&self, path: &str);

    /// Calls a clone of the handle when it is ready.
    async fn call(&self, request: Request) -> <Self::Handle as Service<Request>>::Future {
        self.handle().clone().ready().await.unwrap().call(request)
    }

    /// Calls with a path, without waiting for the answer.
    async fn begin(&self, path: &str) -> <Self::Handle as Service<Request>>::Future {
        let mut request = get(path);
        if path == "/panic" {
            // It is not idempotent, so it is not sent to another worker.
            *request.method_mut() = Method::POST;
        }
        self.call(request).await
    }

    /// Occupies `lanes` lanes by requests, which it returns: `/hold0`, `/hold1` and so on.
    async fn occupy(&mut self, lanes: usize) -> Vec<<Self::Handle as Service<Request>>::Future> {
        let mut held = Vec::new();
        for n in 0..lanes {
            let path = format!("/hold{n}");
            held.push(self.begin(&path).await);
            assert_eq!(self.entered().await, path);
        }
        held
    }

    /// Releases the requests of [`occupy`](Self::occupy), and waits for their answers.
    async fn vacate(&self, held: Vec<<Self::Handle as Service<Request>>::Future>) {
        for (n, answer) in held.into_iter().enumerate() {
            self.release(&format!("/hold{n}"));
            assert_eq!(answer.await.unwrap().status(), 200);
        }
    }

    /// Calls with a path and waits for the answer.
    async fn get(&self, path: &str) -> Result<Response, BoxError> {
        self.begin(path).await.await
    }

    fn stats(&self) -> Stats {
        self.handle().stats()
    }

    async fn shutdown(&self) {
        self.handle().shutdown(LONG).await.unwrap();
    }
}

/// The handle of any pool.
pub(super) trait Handle:
    Service<
        Request,
        Response = Response,
        Error = BoxError,
        Future: Future<Output = Result<Response, BoxError>> + Send + Unpin + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    fn stats(&self) -> Stats;
    fn gate(&self) -> Gate;
    fn close(&self);
    async fn shutdown(&self, within: Duration) -> Result<(), Error>;

    /// Replaces all workers within a long time.
    async fn reload(&self) -> Result<(), Error>;

    /// Returns whether it gets a permit without waiting.
    fn is_ready(&mut self) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        self.poll_ready(&mut cx).is_ready()
    }
}

/// Options of the pool, and the results of its builds.
#[derive(Clone)]
pub(super) struct Settings {
    workers: usize,
    max_workers: usize,
    idle_timeout: Duration,
    queue: usize,
    queue_timeout: Duration,
    request_timeout: Duration,
    max_abandoned: usize,
    /// The number of requests after which a worker is replaced.
    recycle_after: Option<u64>,
    /// The results of the first builds; all others succeed.
    builds: Vec<Build>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Build {
    Succeed,
    /// Returns the error "no database".
    Fail,
    /// Panics with "no database".
    Panic,
    /// Succeeds when `/build` is released.
    Hold,
    /// Succeeds. A process does not answer the second check and all later ones, and says "entered `*`".
    Hang,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 1,
            max_workers: 1,
            idle_timeout: LONG,
            queue: 64,
            queue_timeout: LONG,
            request_timeout: LONG,
            max_abandoned: 1,
            recycle_after: None,
            builds: Vec::new(),
        }
    }
}

impl Settings {
    fn start<P: Placement>(self) -> P {
        P::start(self).unwrap()
    }
}

/// Runs each test of the suite for a placement.
macro_rules! contract_tests {
    (@one [$($attr:meta)?] $placement:ty: $module:ident $test:ident) => {
        #[tokio::test]
        $(#[$attr])?
        async fn $test() {
            $module::$test::<$placement>().await;
        }
    };
    (@modules $attr:tt $placement:ty: $($module:ident { $($test:ident)* })*) => {
        $(contract_tests! { @module $attr $placement: $module $($test)* })*
    };
    (@module $attr:tt $placement:ty: $module:ident $($test:ident)*) => {
        $(contract_tests! { @one $attr $placement: $module $test })*
    };
    (#[$attr:meta] $($rest:tt)*) => {
        contract_tests! { @modules [$attr] $($rest)* }
    };
    ($($rest:tt)*) => {
        contract_tests! { @modules [] $($rest)* }
    };
}

/// The list of all tests that hold for every placement, for [`contract_tests`].
macro_rules! for_placement {
    ($(#[$attr:meta])? $placement:ty) => {
        contract_tests! { $(#[$attr])? $placement:
            queue {
                caller_waits_for_permit_and_is_refused_after_queue_timeout
                request_that_may_not_wait_is_run_by_idle_worker
                freed_permit_goes_to_waiting_caller
                reserved_permit_is_not_cloned_and_is_freed_with_its_handle
                cancelled_request_is_never_run_and_frees_its_permit
                cancelled_requests_do_not_accumulate_in_queue
                deadline_that_passes_in_queue_is_timeout
                queue_timeout_before_deadline_is_overload
                request_past_its_deadline_is_not_run
                requests_are_begun_in_order
                request_never_waits_for_busy_worker_while_another_is_idle
                stats_count_all_outcomes
            }
            restart {
                failed_rebuild_is_tried_again
                request_waits_for_slow_rebuild
                start_refuses_zero_workers
            }
            timeout {
                deadline_aborts_request_and_keeps_worker
                late_answer_is_never_given_to_another_request
            }
            bodies {
                permit_is_freed_when_streamed_body_has_ended
                departed_client_frees_worker_that_waits_for_its_application
                body_past_request_timeout_is_aborted
                failed_body_ends_with_its_error
                panic_in_body_is_error_after_bytes_before_it
            }
            end {
                closed_pool_drains_its_queue_and_refuses_new_requests
                shutdown_past_its_timeout_refuses_queued_requests
                dropped_handles_let_work_finish_and_workers_exit
                pause_before_restart_does_not_delay_shutdown
            }
            renewal {
                reload_replaces_all_workers_and_loses_no_request
                failed_reload_keeps_the_old_workers_and_loses_no_request
                reload_does_not_wait_for_a_request_of_the_generation_before
                recycled_workers_lose_no_request
            }
        }
    };
}

/// The list of the tests for placements whose workers run one request at a time. A worker that runs several is replaced
/// as a whole, so a fault of one request affects the others.
macro_rules! with_one_lane {
    ($(#[$attr:meta])? $placement:ty) => {
        contract_tests! { $(#[$attr])? $placement:
            restart {
                panic_fails_one_request_and_replaces_one_instance
                panic_does_not_affect_other_workers
            }
            timeout {
                stuck_worker_is_abandoned_and_replaced
                stuck_worker_is_replaced_after_its_caller_left
                stuck_worker_keeps_its_slot_at_bound_of_abandoned
                stuck_worker_at_bound_continues_when_its_request_ends
            }
            scale {
                worker_is_added_for_waiting_request_and_ended_when_idle
                pool_never_has_more_workers_than_its_maximum
                workers_that_are_added_may_fail
            }
            bodies {
                body_that_blocks_its_worker_is_aborted_and_worker_abandoned
            }
            end {
                closed_pool_restarts_worker_for_queued_requests
                abandoned_worker_is_awaited_by_shutdown
            }
        }
    };
}

/// The list of the tests for placements whose workers run several requests at a time.
macro_rules! with_several_lanes {
    ($(#[$attr:meta])? $placement:ty) => {
        contract_tests! { $(#[$attr])? $placement:
            lanes {
                crash_fails_all_requests_of_its_worker_that_cannot_be_sent_again
                reloaded_worker_completes_the_requests_of_all_its_lanes
            }
        }
    };
}

/// The test for placements whose start reports why an application cannot be built. A forked worker builds nothing.
macro_rules! with_error_of_build {
    ($(#[$attr:meta])? $placement:ty) => {
        contract_tests! { $(#[$attr])? $placement: restart { start_returns_error_of_build } }
    };
}

mod threads {
    use super::*;

    for_placement!(placement::InThreads);
    with_one_lane!(placement::InThreads);
    with_error_of_build!(placement::InThreads);
}

/// Behaviour that an application in a process cannot have: there it answers 500, or ends.
mod threads_only {
    use super::*;

    contract_tests! { placement::InThreads:
        restart {
            error_of_application_is_returned_to_caller
            start_returns_panic_of_build
        }
    }
}

#[cfg(feature = "process")]
mod in_processes {
    use super::*;

    for_placement!(processes::InProcesses);
    with_one_lane!(processes::InProcesses);
    with_error_of_build!(processes::InProcesses);
}

#[cfg(feature = "process")]
mod in_python {
    use super::*;

    for_placement!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython
    );
    with_one_lane!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython
    );
    with_error_of_build!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython
    );
}

#[cfg(feature = "process")]
mod in_forked_python {
    use super::*;

    for_placement!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::Forked>
    );
    with_one_lane!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::Forked>
    );
}

#[cfg(feature = "process")]
mod in_asgi {
    use super::*;

    for_placement!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::Asgi>
    );
    with_one_lane!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::Asgi>
    );
    with_error_of_build!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::Asgi>
    );
}

#[cfg(feature = "process")]
mod in_threads_of_python {
    use super::*;

    for_placement!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::Threaded>
    );
    with_several_lanes!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::Threaded>
    );
    with_error_of_build!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::Threaded>
    );
}

#[cfg(feature = "process")]
mod in_tasks_of_asgi {
    use super::*;

    for_placement!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::AsgiTasks>
    );
    with_several_lanes!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::AsgiTasks>
    );
    with_error_of_build!(
        #[cfg_attr(not(peer_python3), ignore = "needs python3")]
        python::InPython<python::AsgiTasks>
    );
}

/// PHP offers the queue of a pool, but counts neither refused nor cancelled requests, and refuses queued ones when it is
/// closed.
#[cfg(feature = "process")]
mod in_php {
    use super::*;

    contract_tests! {
        #[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
        php::InPhp:
        queue {
            freed_permit_goes_to_waiting_caller
            reserved_permit_is_not_cloned_and_is_freed_with_its_handle
            deadline_that_passes_in_queue_is_timeout
            queue_timeout_before_deadline_is_overload
            request_past_its_deadline_is_not_run
            requests_are_begun_in_order
            request_never_waits_for_busy_worker_while_another_is_idle
        }
        restart {
            start_refuses_zero_workers
        }
        bodies {
            permit_is_freed_when_streamed_body_has_ended
        }
        end {
            dropped_handles_let_work_finish_and_workers_exit
        }
    }
}
