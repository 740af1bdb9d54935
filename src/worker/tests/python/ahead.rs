//! Requests that were sent ahead to busy workers.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::process::Signal;
use tokio::{runtime::Builder, task::JoinHandle, time::timeout};

use super::{
    super::processes::{hook, kill, next, stop},
    *,
};
use crate::net::serving::Serving;

type Call = JoinHandle<Result<Response, BoxError>>;

/// Names of held requests so far.
static NAMES: AtomicUsize = AtomicUsize::new(0);

impl Site {
    fn spawn(&self, request: Request) -> Call {
        tokio::spawn(self.pool.clone().oneshot(request))
    }

    fn has(&self, name: &str) -> bool {
        self.dir.path().join(name).exists()
    }

    fn release(&self, name: &str) {
        fs::write(self.dir.path().join(format!("go-{name}")), "").unwrap();
    }

    /// Makes each of `workers` workers hold a request, and sends another one ahead to one of them. A
    /// request is sent ahead only behind a short one, so this is repeated if the current one took too long.
    /// `ahead` gets a name, another one each time.
    async fn hold_with_ahead(
        &self,
        workers: usize,
        ahead: impl Fn(&str) -> Request,
    ) -> (Vec<Call>, Call) {
        for attempt in 0.. {
            assert!(attempt < 1000, "no request is sent ahead");
            assert!(self.get("/load").await.is_ok());
            // New ones, since what releases a request remains.
            let name = |_| format!("a{}", NAMES.fetch_add(1, Relaxed));
            let names: Vec<_> = (0..workers).map(name).collect();
            let name_ahead = name(workers);
            let held = names.iter().map(|name| self.spawn(post(&format!("/hold-one?{name}"), "")));
            let held: Vec<_> = held.collect();
            for name in &names {
                self.made(&format!("held-{name}")).await;
            }
            let queued = self.spawn(ahead(&name_ahead));
            while self.pool.stats().queued < 1 && !queued.is_finished() {
                tokio::task::yield_now().await;
            }
            if self.pool.ahead() == 1 {
                // The others are found by these names.
                for (n, name) in names.iter().enumerate() {
                    fs::write(self.dir.path().join(format!("name-{n}")), name).unwrap();
                }
                fs::write(self.dir.path().join("name-ahead"), name_ahead).unwrap();
                return (held, queued);
            }
            queued.abort();
            names.iter().chain([&name_ahead]).for_each(|name| self.release(name));
            for call in held {
                call.await.unwrap().unwrap();
            }
            let _ = queued.await; // it was cancelled or answered
        }
        unreachable!("there is no last attempt")
    }

    /// Releases a request that [`hold_with_ahead`](Self::hold_with_ahead) has begun.
    async fn release_held(&self, n: usize) {
        let name = self.made(&format!("name-{n}")).await;
        self.release(&name);
    }

    /// Returns whether a worker has begun the request that was sent ahead.
    async fn has_begun_ahead(&self) -> bool {
        let name = self.made("name-ahead").await;
        self.has(&format!("held-{name}"))
    }
}

fn one_worker() -> ProcessesBuilder<Python> {
    wsgi("application").workers(1).queue_timeout(LONG)
}

async fn answer(call: Call) -> Result<Response, BoxError> {
    timeout(LONG, call).await.expect("it is answered").unwrap()
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn request_ahead_of_a_killed_worker_is_answered_by_another() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let site = Site::start_with(one_worker().on_ready(on_ready));
    let killed = next(&mut ready).await;
    let (held, ahead) = site.hold_with_ahead(1, |_| post("/load", "not idempotent")).await;
    kill(killed.pid, Signal::KILL);
    for call in held {
        assert_eq!(kind(&answer(call).await.unwrap_err()), Kind::BadGateway);
    }
    let other = next(&mut ready).await;
    assert_eq!(text(&answer(ahead).await.unwrap()), format!("/load {}", other.pid));
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn request_that_a_killed_worker_has_not_read_is_answered_by_another() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let site = Site::start_with(one_worker().on_ready(on_ready));
    for _ in 0..3 {
        let killed = next(&mut ready).await;
        stop(killed.pid);
        let call = site.spawn(post("/load", "not idempotent"));
        while site.pool.stats().busy < 1 {
            tokio::task::yield_now().await;
        }
        kill(killed.pid, Signal::KILL);
        assert!(text(&answer(call).await.unwrap()).starts_with("/load "));
    }
    site.pool.shutdown(LONG).await.unwrap();
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn request_ahead_does_not_wait_for_the_slow_client_of_another() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let (serving, other) = (runtime(), runtime());
    let site = Site::start_with(one_worker());
    let (mut held, ahead, _serving) = serving.block_on(async {
        let guard = Serving::new();
        // The worker is assigned to this runtime.
        assert!(site.get("/load").await.is_ok());
        let (held, ahead) = site.hold_with_ahead(1, |name| get(&format!("/hold-one?{name}"))).await;
        (held, ahead, guard)
    });
    // While the runtime is not driven, the worker sends the whole response, which fits into its socket, and reads the next
    // request.
    other.block_on(async {
        let name = site.made("name-0").await;
        fs::write(site.dir.path().join(format!("pieces-{name}")), "").unwrap();
        site.release(&name);
        let ahead = site.made("name-ahead").await;
        site.made(&format!("held-{ahead}")).await;
        site.release(&ahead);
    });
    serving.block_on(async {
        let unread = answer(held.pop().unwrap()).await.unwrap();
        assert_eq!(answer(ahead).await.unwrap().status(), 200);
        assert_eq!(collect(unread).await.len(), 8 * 16384);
        site.end().await;
    });
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn request_ahead_whose_client_leaves_is_never_run() {
    let site = Site::start_with(one_worker());
    let (held, ahead) = site.hold_with_ahead(1, |name| get(&format!("/hold-one?{name}"))).await;
    let cancelled = site.pool.stats().cancelled;
    ahead.abort();
    assert!(ahead.await.unwrap_err().is_cancelled());
    assert_eq!((site.pool.stats().cancelled, site.pool.ahead()), (cancelled + 1, 0));
    site.release_held(0).await;
    for call in held {
        answer(call).await.unwrap();
    }
    assert!(site.get("/load").await.is_ok());
    assert!(!site.has_begun_ahead().await);
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn request_ahead_whose_deadline_passes_is_never_run() {
    let site = Site::start_with(one_worker());
    let request = |name: &str| with_deadline(&format!("/hold-one?{name}"), SHORT);
    let (held, ahead) = site.hold_with_ahead(1, request).await;
    assert_eq!(kind(&answer(ahead).await.unwrap_err()), Kind::Timeout);
    site.release_held(0).await;
    for call in held {
        answer(call).await.unwrap();
    }
    assert!(site.get("/load").await.is_ok());
    assert!(!site.has_begun_ahead().await);
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn request_ahead_of_a_slow_one_goes_to_the_worker_that_becomes_idle() {
    let site = Site::start_with(wsgi("application").workers(2).queue_timeout(LONG));
    // It is ahead at one of them.
    for idle in [0, 1] {
        let (held, ahead) = site.hold_with_ahead(2, |_| get("/load")).await;
        site.release_held(idle).await;
        assert!(text(&answer(ahead).await.unwrap()).starts_with("/load "));
        assert!(!held[1 - idle].is_finished());
        site.release_held(1 - idle).await;
        for call in held {
            answer(call).await.unwrap();
        }
    }
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn request_ahead_of_a_stopped_worker_is_answered_by_its_replacement() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let builder = one_worker().on_ready(on_ready).request_timeout(Duration::from_secs(3));
    let site = Site::start_bounded(builder, SHORT);
    let stopped = next(&mut ready).await;
    let (held, ahead) = site.hold_with_ahead(1, |_| post("/load", "")).await;
    stop(stopped.pid);
    for call in held {
        assert_eq!(kind(&answer(call).await.unwrap_err()), Kind::Timeout);
    }
    let forked = next(&mut ready).await;
    assert_eq!(text(&answer(ahead).await.unwrap()), format!("/load {}", forked.pid));
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn request_ahead_that_a_faulty_worker_has_read_is_repeated_if_idempotent() {
    let site = Site::start_bounded(one_worker(), SHORT);
    for is_idempotent in [true, false] {
        let request = |_: &str| if is_idempotent { get("/load") } else { post("/load", "") };
        let _ = fs::remove_file(site.dir.path().join("steal"));
        let (held, ahead) = site.hold_with_ahead(1, request).await;
        fs::write(site.dir.path().join("steal"), "").unwrap();
        site.release_held(0).await;
        for call in held {
            assert_eq!(kind(&answer(call).await.unwrap_err()), Kind::BadGateway);
        }
        match answer(ahead).await {
            Ok(answered) => assert!(is_idempotent && text(&answered).starts_with("/load ")),
            Err(error) => assert!(!is_idempotent && kind(&error) == Kind::BadGateway, "{error}"),
        }
    }
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn departed_client_of_a_stream_is_reported_although_another_request_is_ahead() {
    let site = Site::start_with(one_worker());
    for attempt in 0.. {
        assert!(attempt < 1000, "no request is sent ahead");
        assert!(site.get("/load").await.is_ok());
        let streamed = site.get("/ticks").await.unwrap();
        let ahead = site.spawn(get("/load"));
        while site.pool.stats().queued < 1 {
            tokio::task::yield_now().await;
        }
        let was_ahead = site.pool.ahead() == 1;
        drop(streamed);
        assert!(answer(ahead).await.is_ok());
        if was_ahead {
            break;
        }
    }
    assert_eq!(site.made("closed").await, "/ticks");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_answers_the_request_that_was_sent_ahead_next() {
    let site = Site::start_with(one_worker());
    let (held, ahead) = site.hold_with_ahead(1, |_| get("/load")).await;
    let behind = site.spawn(get("/raise"));
    site.release_held(0).await;
    for call in held {
        answer(call).await.unwrap();
    }
    assert!(text(&answer(ahead).await.unwrap()).starts_with("/load "));
    assert_eq!(kind(&answer(behind).await.unwrap_err()), Kind::Internal);
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_that_finds_two_requests_answers_the_first_one_first() {
    // Whether a request is sent ahead depends on the duration of those before.
    let mut ahead = 0;
    for _ in 0..20 {
        ahead = find_two_requests().await;
        if ahead > 0 {
            break;
        }
    }
    assert!(ahead > 0, "no request is sent ahead");
}

/// Returns how many of the second requests were sent ahead, at most 3.
async fn find_two_requests() -> usize {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let site = Site::start_with(one_worker().on_ready(on_ready));
    let worker = next(&mut ready).await;
    let mut ahead = 0;
    for _ in 0..200 {
        assert!(site.get("/load").await.is_ok());
        stop(worker.pid);
        let first = site.spawn(get("/load"));
        while site.pool.stats().busy < 1 {
            tokio::task::yield_now().await;
        }
        let second = site.spawn(get("/raise"));
        while site.pool.stats().queued < 1 {
            tokio::task::yield_now().await;
        }
        ahead += site.pool.ahead();
        kill(worker.pid, Signal::CONT);
        assert_eq!(text(&answer(first).await.unwrap()), format!("/load {}", worker.pid));
        assert_eq!(kind(&answer(second).await.unwrap_err()), Kind::Internal);
        if ahead >= 3 {
            break;
        }
    }
    site.end().await;
    ahead
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn worker_keeps_request_that_it_reads_in_place_of_a_disconnect() {
    let manifest = env!("CARGO_MANIFEST_DIR");
    let mut test = std::process::Command::new("python3");
    test.arg(format!("{manifest}/src/worker/tests/python/has_left.py"));
    let output = test.arg(format!("{manifest}/src/worker/python/worker.py")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
