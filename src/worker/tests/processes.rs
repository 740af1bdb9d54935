//! Tests of properties that only processes have.

mod crashes;
mod health;
mod memory;
mod replacement;

use std::{
    collections::HashSet,
    env,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    process::{self, Stdio},
    sync::{Arc, Mutex},
};

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{sync::mpsc, time::timeout};
use tower::ServiceExt;

pub(super) use super::contract::load::Load;
use super::{
    super::*,
    contract::{Build, Placement, processes::InProcesses},
    *,
};
use crate::{conn::testing::Lines, peer::RequestId};

pub(super) fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Returns a hook that sends its argument to a channel.
pub(super) fn hook<T: Send + 'static>()
-> (impl Fn(T) + Send + Sync + 'static, mpsc::UnboundedReceiver<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (move |event| drop(sender.send(event)), receiver)
}

pub(super) async fn next<T>(events: &mut mpsc::UnboundedReceiver<T>) -> T {
    timeout(LONG, events.recv()).await.expect("it comes").expect("the pool holds a sender")
}

fn post(path: &str) -> Request {
    let mut request = get(path);
    *request.method_mut() = Method::POST;
    request
}

/// Returns the process that has begun `/hold-pid`.
fn pid_in(entered: &str) -> u32 {
    entered.strip_prefix("/hold-pid ").unwrap().parse().unwrap()
}

/// Returns whether a process is running.
pub(super) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Stops a process with SIGSTOP, and waits until each of its threads has stopped, since the signal takes effect
/// later.
pub(super) fn stop(pid: u32) {
    kill(pid, Signal::STOP);
    let began = Instant::now();
    loop {
        let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        if tasks.all(is_stopped) {
            return;
        }
        assert!(began.elapsed() < LONG, "{pid} runs on");
        std::thread::yield_now();
    }
}

#[test]
fn handle_and_builder_are_send() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Processes>();
    fn moves<T: Send + 'static>() {}
    moves::<ProcessesBuilder>();
}

#[tokio::test]
async fn invalid_response_is_bad_gateway_and_worker_continues() {
    let pool = InProcesses::start_with(vec![], |b| b.workers(1)).unwrap();
    let error = pool.get("/garbage").await.unwrap_err();
    assert_eq!(kind(&error), Kind::BadGateway);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 0");
    pool.shutdown().await;
}

#[tokio::test]
async fn s22_second_answer_is_never_given_to_the_next_request() {
    let pool = InProcesses::start_with(vec![], |b| b.workers(1)).unwrap();
    for _ in 0..3 {
        assert_eq!(text(&pool.get("/twice").await.unwrap()), "first");
        assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 0");
    }
    pool.shutdown().await;
}

#[tokio::test]
async fn start_reports_worker_that_is_not_ready_in_time() {
    let error = process(Command::new("/bin/sleep").arg("1000"))
        .workers(1)
        .start_timeout(SHORT)
        .stop_timeout(LONG)
        .start()
        .unwrap_err();
    let not_ready = error.source().unwrap().downcast_ref::<NotReady>().unwrap();
    assert_eq!(*not_ready, NotReady { timeout: SHORT, reason: "it has not answered".to_owned() });
}

#[tokio::test]
async fn start_reports_last_line_of_output() {
    let script = "echo first; echo 'ModuleNotFoundError: No module named mysite' >&2; exit 3";
    let command = Command::new("/bin/sh").args(["-c", script]);
    let error = process(command).workers(2).start().unwrap_err();
    let early = error.source().unwrap().downcast_ref::<ExitedEarly>().unwrap();
    assert_eq!(early.status, ExitStatus::Code(3));
    assert_eq!(early.last_line, "ModuleNotFoundError: No module named mysite");
}

#[tokio::test]
async fn socket_path_must_stand_in_an_argument() {
    let error = process(Command::new("/bin/true")).socket_path().start().unwrap_err();
    assert!(error.source().unwrap().to_string().contains("{socket}"));
}

#[tokio::test]
async fn worker_is_ready_when_its_path_succeeds() {
    let options = |b: ProcessesBuilder| b.workers(1).ready_path("/health");
    let mut pool = InProcesses::start_with(vec![], options).unwrap();
    // The first two responses were 503.
    for _ in 0..3 {
        assert_eq!(pool.entered().await, "/health");
    }
    assert!(!pool.has_entered());
    pool.shutdown().await;
}

#[tokio::test]
async fn panic_in_hook_does_not_affect_the_worker() {
    let (on_exit, mut exits) = hook();
    let pool = InProcesses::start_with(vec![], |b| {
        b.workers(1).on_spawn(|_| panic!("on_spawn")).on_ready(|_| panic!("on_ready")).on_exit(
            move |(worker, status): (WorkerProcess, ExitStatus)| {
                on_exit((worker.number, status));
                panic!("on_exit");
            },
        )
    });
    let pool = pool.unwrap();
    assert_eq!(text(&pool.get("/first").await.unwrap()), "/first 0");
    assert!(pool.begin("/panic").await.await.is_err());
    assert_eq!(next(&mut exits).await, (0, ExitStatus::Code(101)));
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    pool.shutdown().await;
}

#[tokio::test]
async fn process_gets_concurrent_requests_up_to_its_limit() {
    let options = |b: ProcessesBuilder| b.workers(1).concurrency(2);
    let mut pool = InProcesses::start_with(vec![], options).unwrap();
    let held = [pool.begin("/hold1").await, pool.begin("/hold2").await];
    let third = pool.begin("/third").await;
    let mut entered = [pool.entered().await, pool.entered().await];
    entered.sort();
    assert_eq!(entered, ["/hold1", "/hold2"]);
    let stats = pool.stats();
    assert_eq!((stats.workers, stats.busy, stats.queued), (2, 2, 1));
    pool.release("/hold2");
    assert_eq!(text(&third.await.unwrap()), "/third 0");
    let load = Load::start(pool.processes(), || post("/load"));
    pool.processes().reload().await.unwrap();
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    pool.release("/hold1");
    for (answer, expected) in held.into_iter().zip(["/hold1 0", "/hold2 0"]) {
        assert_eq!(text(&answer.await.unwrap()), expected, "its process has ended its requests");
    }
    pool.shutdown().await;
    assert_eq!((pool.builds(), pool.stats().panics), (2, 0));
}

#[tokio::test]
async fn concurrency_of_a_process_has_a_maximum() {
    let options = |b: ProcessesBuilder| b.workers(1).concurrency(usize::MAX);
    let pool = InProcesses::start_with(vec![], options).unwrap();
    assert_eq!(pool.stats().workers, 1000);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 0");
    pool.shutdown().await;
}

#[tokio::test]
async fn caller_that_leaves_frees_its_lane_of_a_concurrent_process() {
    let options = |b: ProcessesBuilder| b.workers(1).concurrency(2);
    let mut pool = InProcesses::start_with(vec![], options).unwrap();
    let polls = [pool.begin("/hold1").await, pool.begin("/hold2").await];
    for _ in 0..2 {
        pool.entered().await;
    }
    drop(polls);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 0");
    assert_eq!(pool.stats().panics, 0);
    pool.release("/hold1");
    pool.release("/hold2");
    pool.shutdown().await;
    assert_eq!(pool.builds(), 1);
}

#[tokio::test]
async fn deadline_of_a_request_frees_its_lane_of_a_concurrent_process() {
    let options = |b: ProcessesBuilder| b.workers(1).concurrency(2);
    let mut pool = InProcesses::start_with(vec![], options).unwrap();
    let hold = |path| pool.call(with_deadline(path, InProcesses::SHORT));
    let polls = [hold("/hold1").await, hold("/hold2").await];
    for _ in 0..2 {
        pool.entered().await;
    }
    for poll in polls {
        assert_eq!(kind(&poll.await.unwrap_err()), Kind::Timeout);
    }
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 0");
    pool.release("/hold1");
    pool.release("/hold2");
    pool.shutdown().await;
    assert_eq!((pool.builds(), pool.stats().abandoned), (1, 0));
}

#[tokio::test]
async fn process_with_stuck_request_is_replaced_as_a_whole_and_stopped() {
    let (on_exit, mut exits) = hook();
    let options = |b: ProcessesBuilder| {
        b.workers(1).concurrency(3).request_timeout(InProcesses::SHORT).on_exit(on_exit)
    };
    let mut pool = InProcesses::start_with(vec![], options).unwrap();
    let stuck = pool.begin("/hold-pid").await;
    let pid = pid_in(&pool.entered().await);
    assert_eq!(kind(&stuck.await.unwrap_err()), Kind::Timeout);
    // Its other lanes have no request, so it is stopped, although they would serve on.
    while pool.stats().recycled < 2 {
        assert!(pool.stats().workers >= 2, "the others serve until they are replaced");
        tokio::task::yield_now().await;
    }
    pool.release("/hold-pid");
    let (worker, status): (WorkerProcess, ExitStatus) = next(&mut exits).await;
    assert_eq!((worker.pid, status), (pid, ExitStatus::Code(0)));
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    pool.shutdown().await;
    assert_eq!(pool.builds(), 2);
}

/// The environment variable that makes this test program play a role in a child process.
pub(super) const ROLE: &str = "VESTIBULE_TEST_ROLE";

/// Returns the command that runs one test of this program in a child process.
pub(super) fn in_role(test: &str) -> process::Command {
    let mut command = process::Command::new(env::current_exe().unwrap());
    command.args(["--exact", &format!("worker::tests::{test}"), "--nocapture"]);
    command.env(ROLE, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// The bound for the end of all processes of a pool after its program was killed. The kernel kills workers
/// (`PR_SET_PDEATHSIG`), and the guardian their groups.
const ORPHAN_LIFETIME: Duration = Duration::from_secs(2);

/// Kills a program with SIGKILL, and checks that these processes, which run, end within [`ORPHAN_LIFETIME`].
pub(super) fn kill_parent(mut program: process::Child, pids: impl IntoIterator<Item = u32>) {
    let pids: Vec<u32> = pids.into_iter().collect();
    assert!(!pids.is_empty() && pids.iter().all(|pid| is_alive(*pid)), "{pids:?}");
    let killed_at = Instant::now();
    program.kill().unwrap();
    while let Some(alive) = pids.iter().find(|pid| is_alive(**pid)) {
        assert!(killed_at.elapsed() < ORPHAN_LIFETIME, "{alive} of {pids:?} runs on");
        std::thread::yield_now();
    }
    assert_eq!(program.wait().unwrap().signal(), Some(9));
}

/// Starts a test of this program in a role, with a directory of its own for temporary files: when it is killed, it cannot
/// remove them.
pub(super) fn spawn_role(test: &str) -> (process::Child, tempfile::TempDir) {
    let files = tempfile::tempdir().unwrap();
    // The processes of another user look for their files in it, too.
    std::fs::set_permissions(files.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = in_role(test).env("TMPDIR", files.path()).spawn().unwrap();
    (program, files)
}

/// Reads lines `PREFIX NUMBER...` of a program until they have named `n` different numbers.
pub(super) fn read_numbers(program: &mut process::Child, prefix: &str, n: usize) -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    while found.len() < n {
        let line = lines.next().expect("the program runs").unwrap();
        if let Some((_, numbers)) = line.rsplit_once(prefix) {
            found.extend(numbers.split(' ').filter_map(|number| number.parse::<u32>().ok()));
        }
    }
    found
}

#[test]
fn worker_and_its_children_end_with_a_killed_parent() {
    if env::var_os(ROLE).is_some() {
        // A worker that ignores SIGTERM and has a child process; both print their ids.
        let script = "trap '' TERM; sleep 1000 & echo worker $$ $!; wait";
        let hook = |worker: WorkerProcess| println!("worker {}", worker.pid);
        let command = Command::new("/bin/sh").args(["-c", script]);
        let subscriber = tracing_subscriber::fmt().with_writer(std::io::stdout).finish();
        let _log = tracing::subscriber::set_global_default(subscriber);
        let _ = process(command).workers(2).on_spawn(hook).start();
        return;
    }
    let test = "processes::worker_and_its_children_end_with_a_killed_parent";
    let (mut parent, _files) = spawn_role(test);
    // The hook and the output print the same ids.
    let pids = read_numbers(&mut parent, "worker ", 4);
    kill_parent(parent, pids);
}

#[test]
fn output_line_has_the_id_of_the_request_of_its_worker() {
    const TEST: &str = "processes::output_line_has_the_id_of_the_request_of_its_worker";
    if env::var_os(ROLE).is_some() {
        // The thread that reads the output uses the global subscriber.
        let lines = Lines::default();
        tracing::subscriber::set_global_default(lines.subscriber()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(print_in_request(&lines));
    }
    let output = in_role(TEST).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

async fn print_in_request(lines: &Lines) {
    let pool = InProcesses::start_with(vec![], |b| b.workers(1)).unwrap();
    let mut request = get("/print");
    request.extensions_mut().insert(RequestId::new(17, 3));
    let answer = pool.call(request).await;
    let line = |of: &'static str| async move {
        loop {
            let lines = lines.of("vestibule::worker::output");
            if let Some(line) = lines.into_iter().find(|line| line.contains(of)) {
                return line;
            }
            tokio::task::yield_now().await;
        }
    };
    let inside = timeout(LONG, line("printed in a request")).await.unwrap();
    let id = format!("request_id={}", RequestId::new(17, 3));
    assert!(inside.contains(&id) && inside.contains("worker=0"), "{inside}");
    let outside = timeout(LONG, line("printed outside of requests")).await.unwrap();
    assert!(!outside.contains("request_id"), "{outside}");
    pool.release("/print");
    assert_eq!(answer.await.unwrap().status(), 200);
    pool.shutdown().await;
}

#[test]
fn crashes_leave_no_descriptors_and_no_files() {
    if env::var_os(ROLE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(crash_again_and_again());
    }
    let output = in_role("processes::crashes_leave_no_descriptors_and_no_files").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

async fn crash_again_and_again() {
    let spawned = Arc::new(Mutex::new(0));
    let count = spawned.clone();
    let pool = InProcesses::start_with(vec![], |b| {
        b.workers(1).on_spawn(move |_| *count.lock().unwrap() += 1)
    });
    let pool = pool.unwrap();
    let mut before = None;
    for crash in 0..100 {
        assert!(pool.begin("/panic").await.await.is_err());
        assert_eq!(pool.get("/").await.unwrap().status(), 200);
        // The test itself has a connection for each application, which ends with it.
        if crash == 20 {
            before = Some(descriptors());
        }
    }
    assert_eq!(*spawned.lock().unwrap(), 101);
    let (before, after) = (before.unwrap(), descriptors());
    assert!(after <= before + 5, "{before} descriptors have become {after}");
    pool.shutdown().await;
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn pool_serves_or_refuses_with_extreme_settings() {
    let settings: [fn(ProcessesBuilder, bool) -> ProcessesBuilder; 17] = [
        |b, is_max| b.max_workers(count(is_max)),
        |b, is_max| b.max_workers(3).spare_workers(count(is_max)),
        |b, is_max| b.max_workers(3).spare_workers(1).idle_timeout(time(is_max)),
        |b, is_max| b.queue(count(is_max)),
        |b, is_max| b.queue_timeout(time(is_max)),
        |b, is_max| b.request_timeout(time(is_max)),
        |b, is_max| b.max_abandoned(count(is_max)),
        |b, _| b.start_timeout(Duration::MAX),
        |b, is_max| b.drain_timeout(time(is_max)),
        |b, is_max| b.stop_timeout(time(is_max)),
        |b, is_max| b.recycle_after(number(is_max), 0),
        |b, is_max| b.recycle_after(number(is_max), u64::MAX),
        |b, is_max| b.recycle_age(time(is_max)),
        |b, is_max| b.recycle_memory(number(is_max)),
        |b, is_max| b.recycle_after(1, 0).recycle_at_a_time(count(is_max)),
        |b, is_max| b.health_check(time(is_max)),
        |b, is_max| b.health_check(SHORT).health_timeout(time(is_max)),
    ];
    for (set, is_max) in settings.iter().flat_map(|set| [(set, true), (set, false)]) {
        let pool = InProcesses::start_with(vec![], |b| set(b.workers(1), is_max)).unwrap();
        for _ in 0..2 {
            serves_or_refuses(pool.processes().clone().oneshot(get("/")).await);
        }
        pool.processes().reload().await.unwrap();
        pool.shutdown().await;
    }
    // No process is ready at once.
    let failed = InProcesses::start_with(vec![], |b| b.start_timeout(Duration::ZERO));
    assert!(failed.err().unwrap().source().unwrap().is::<NotReady>());
}
