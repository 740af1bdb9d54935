//! Workers that are killed, stopped, late or wrong while others serve, and slow starts.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinSet, time::timeout};

use super::{
    super::processes::{Load, hook, is_alive, kill, next},
    *,
};

/// Callers whose requests and responses have a text of their own.
struct Callers {
    is_on: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: JoinSet<Vec<BoxError>>,
}

impl Callers {
    fn start(pool: &Processes) -> Self {
        let (is_on, answered) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        for caller in 0..8 {
            let (pool, is_on, answered) = (pool.clone(), is_on.clone(), Arc::clone(&answered));
            tasks.spawn(async move {
                let mut errors = Vec::new();
                for n in 0.. {
                    if !is_on.load(Ordering::Relaxed) {
                        break;
                    }
                    let own = format!("{caller}-{n}");
                    match pool.clone().oneshot(get(&format!("/echo?{own}"))).await {
                        Ok(response) => {
                            assert_eq!(text(&response), own, "it is of another request");
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => errors.push(error),
                    }
                }
                errors
            });
        }
        Self { is_on, answered, tasks }
    }

    /// Waits for so many further responses.
    async fn wait_answers(&self, n: usize) {
        let until = self.answered.load(Ordering::Relaxed) + n;
        wait_until(|| self.answered.load(Ordering::Relaxed) >= until).await;
    }

    async fn end(self) -> Vec<BoxError> {
        self.is_on.store(false, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

async fn wait_until(is_reached: impl Fn() -> bool) {
    let reached = async {
        while !is_reached() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, reached).await.expect("it is reached");
}

/// Returns a descriptor of a worker, which stands for no later process that has its id; `None` if it has ended.
fn pidfd(worker: WorkerProcess) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(worker.pid as i32).unwrap(), PidfdFlags::empty()).ok()
}

/// Sends a signal to the worker that became ready last. It may have ended.
fn signal_newest(
    ready: &mut UnboundedReceiver<Option<OwnedFd>>,
    newest: &mut Option<OwnedFd>,
    signal: Signal,
) {
    while let Ok(worker) = ready.try_recv() {
        *newest = worker;
    }
    if let Some(worker) = newest {
        let _ = pidfd_send_signal(worker, signal);
    }
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn responses_belong_to_their_requests_while_workers_fail() {
    const ROUNDS: usize = 3;
    let (on_ready, mut ready) = hook();
    let on_ready = move |worker| on_ready(pidfd(worker));
    let builder = wsgi("application").workers(3).queue_timeout(LONG).on_ready(on_ready);
    let builder = builder.recycle_after(100, 20).request_timeout(Duration::from_secs(1));
    let site = Site::start_bounded(builder, SHORT);
    let mut newest = next(&mut ready).await;
    let callers = Callers::start(&site.pool);
    for _ in 0..ROUNDS {
        // The worker answers after the deadline.
        let late = site.call(with_deadline("/late", Duration::from_millis(200))).await;
        assert_eq!(kind(&late.unwrap_err()), Kind::Timeout);
        let error = site.call(post("/garbage", Body::empty())).await.unwrap_err();
        assert_eq!(kind(&error), Kind::BadGateway);
        let error = site.call(post("/crash", Body::empty())).await.unwrap_err();
        assert_eq!(kind(&error), Kind::BadGateway);
        callers.wait_answers(20).await;
        signal_newest(&mut ready, &mut newest, Signal::KILL);
        callers.wait_answers(20).await;
        signal_newest(&mut ready, &mut newest, Signal::STOP);
        callers.wait_answers(20).await;
        site.pool.reload().await.unwrap();
    }
    callers.wait_answers(20).await;
    let errors = callers.end().await;
    // A stopped worker has one request, and a request is sent to two workers that are killed at most.
    assert!(errors.len() <= 2 * ROUNDS, "{errors:?}");
    let is_expected = |e| matches!(kind(e), Kind::Timeout | Kind::BadGateway);
    assert!(errors.iter().all(is_expected), "{errors:?}");
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn killed_worker_is_replaced_although_its_child_holds_its_sockets() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let site = Site::start_with(wsgi("application").workers(1).on_ready(on_ready));
    let worker = next(&mut ready).await.pid;
    let answer = tokio::spawn(site.pool.clone().oneshot(post("/fork-hold", Body::empty())));
    let child = site.made("forked").await.parse().unwrap();
    kill(worker, Signal::KILL);
    assert_eq!(kind(&answer.await.unwrap().unwrap_err()), Kind::BadGateway);
    let expected = format!("/load {}", next(&mut ready).await.pid);
    assert_eq!(text(&site.get("/load").await.unwrap()), expected);
    assert!(is_alive(child));
    kill(child, Signal::KILL);
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn old_workers_serve_while_the_next_generation_loads_slowly() {
    let site = Site::start_with(wsgi("application").workers(2));
    let hold = site.dir.path().join("hold-load");
    fs::write(&hold, "").unwrap();
    let load = Load::start(&site.pool, || post("/load", Body::empty()));
    let pool = site.pool.clone();
    let reload = tokio::spawn(async move { pool.reload().await });
    site.made("loaded").await;
    let loaded = site.dir.path().join("loaded");
    wait_until(|| fs::read_to_string(&loaded).unwrap().lines().count() >= 2).await;
    let served = site.pool.stats().served;
    wait_until(|| site.pool.stats().served >= served + 100).await;
    assert_eq!((reload.is_finished(), site.pool.stats().generation), (false, 0));
    fs::remove_file(hold).unwrap();
    reload.await.unwrap().unwrap();
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    site.end().await;
}
