//! Tests of pools that run out of a resource of the system, each in a separate process.

mod forks;

use std::{
    env, fs,
    io::{self, Seek},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{self, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, setrlimit},
};
use tokio::{sync::mpsc, time::timeout};
use tower::ServiceExt;

use super::{
    super::*,
    contract::{Placement, processes::InProcesses},
    processes::{ROLE, hook, kill, next},
    python::{Site, collect, post},
    *,
};
use crate::{
    conn::testing::Lines,
    net::process::{Command, ExitStatus},
    policy::backoff::Backoff,
};

/// Maximum duration of a scenario. Its own waits end earlier.
const SCENARIO_TIMEOUT: Duration = LONG.saturating_mul(3);

/// Returns the command that runs one test of this program in a child process.
fn in_role(test: &str) -> process::Command {
    // The user can execute this path, even without access to the directories of the file.
    let mut command = process::Command::new("/proc/self/exe");
    command.args(["--exact", &format!("worker::tests::exhaustion::{test}"), "--nocapture"]);
    command.env(ROLE, "1").stdin(Stdio::null());
    command
}

/// Runs a scenario in a child process, with its log.
fn run<S: Future<Output = ()>>(test: &str, scenario: fn(Lines) -> S) {
    run_with(test, |_| {}, scenario);
}

fn run_with<S: Future<Output = ()>>(
    test: &str,
    options: impl FnOnce(&mut process::Command),
    scenario: fn(Lines) -> S,
) {
    if env::var_os(ROLE).is_some() {
        // The threads of the pool use the global subscriber.
        let lines = Lines::default();
        tracing::subscriber::set_global_default(lines.subscriber()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(scenario(lines));
    }
    let mut command = in_role(test);
    options(&mut command);
    // Files, so that a full pipe blocks no output.
    let mut outputs = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    let [stdout, stderr] = outputs.each_ref().map(|file| file.try_clone().unwrap());
    let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
    let has_ended = ends_within(&child, SCENARIO_TIMEOUT);
    if !has_ended {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let [stdout, stderr] = outputs.each_mut().map(|file| {
        file.rewind().unwrap();
        io::read_to_string(file).unwrap()
    });
    assert!(has_ended, "it runs for more than {SCENARIO_TIMEOUT:?}: {stdout}{stderr}");
    assert!(status.success(), "{stdout}{stderr}");
}

/// Waits until a process has ended, for at most this time. Returns whether it has.
fn ends_within(child: &process::Child, limit: Duration) -> bool {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let began = Instant::now();
    loop {
        let left = limit.saturating_sub(began.elapsed()).try_into().unwrap();
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {} // by SIGCHLD, for which other tests have a handler
            ended => return ended.unwrap() == 1,
        }
    }
}

/// Waits for a line of the log.
async fn line(lines: &Lines, module: &str, text: &str) -> String {
    let target = format!("vestibule::{module}");
    let wait = async {
        loop {
            let lines = lines.of(&target);
            if let Some(line) = lines.into_iter().find(|line| line.contains(text)) {
                return line;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, wait).await.expect("the log has such a line")
}

/// Starts a pool of one worker. Returns its process too.
async fn start() -> (InProcesses, WorkerProcess, mpsc::UnboundedReceiver<WorkerProcess>) {
    let (on_ready, mut ready) = hook();
    let pool = InProcesses::start_with(vec![], |b| b.workers(1).on_ready(on_ready)).unwrap();
    let worker = next(&mut ready).await;
    (pool, worker, ready)
}

#[test]
fn thousand_failed_starts_leak_no_descriptors_and_no_memory() {
    run("thousand_failed_starts_leak_no_descriptors_and_no_memory", fail_to_start);
}

async fn fail_to_start(_: Lines) {
    const CRASHES: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    // The first worker is an application; all others end at once.
    let script = "[ -e \"$STARTED\" ] && exit 3; : > \"$STARTED\"; exec \"$@\"";
    let started = dir.path().join("started");
    let spawned = Arc::new(AtomicUsize::new(0));
    let count = spawned.clone();
    let pool = InProcesses::start_command(
        vec![],
        |command| command.by_shell(script).env("STARTED", &started),
        |b| {
            b.workers(1)
                .backoff(Backoff::new(Duration::from_micros(10), Duration::from_micros(100)))
                .on_spawn(move |_| {
                    count.fetch_add(1, Ordering::SeqCst);
                })
        },
    );
    let pool = pool.unwrap();
    assert!(pool.begin("/panic").await.await.is_err());
    let after = async |n: usize| {
        while spawned.load(Ordering::SeqCst) <= n {
            tokio::task::yield_now().await;
        }
        (descriptors(), resident())
    };
    let (fds, memory) = timeout(LONG, after(CRASHES / 5)).await.unwrap();
    let (later_fds, later_memory) = timeout(LONG, after(CRASHES)).await.unwrap();
    // The current worker has some descriptors.
    assert!(later_fds <= fds + 8, "{fds} descriptors have become {later_fds}");
    assert!(later_memory <= memory + 4096, "{memory} KiB have become {later_memory}");
    pool.shutdown().await;
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Memory of this process without the pages of its program, in KiB.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn set_soft_limit(resource: Resource, limit: Option<u64>) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: limit, maximum }).unwrap();
}

#[test]
fn pool_without_descriptors_keeps_its_workers_and_starts_others_later() {
    let test = "pool_without_descriptors_keeps_its_workers_and_starts_others_later";
    run(test, run_out_of_descriptors);
}

async fn run_out_of_descriptors(lines: Lines) {
    let (pool, worker, mut ready) = start().await;
    // The connection to the worker is closed, and the next one takes a descriptor.
    assert!(pool.get("/garbage").await.is_err());
    let limit = getrlimit(Resource::Nofile).current;
    set_soft_limit(Resource::Nofile, Some(3)); // open descriptors stay open
    for _ in 0..3 {
        assert_eq!(kind(&pool.get("/").await.unwrap_err()), Kind::Overloaded);
    }
    set_soft_limit(Resource::Nofile, limit);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 0", "the worker was kept");
    set_soft_limit(Resource::Nofile, Some(3));
    kill(worker.pid, Signal::KILL);
    line(&lines, "worker", "cannot start a worker").await;
    set_soft_limit(Resource::Nofile, limit);
    next(&mut ready).await;
    assert_eq!(pool.get("/").await.unwrap().status(), 200);
    pool.shutdown().await;
}

#[test]
fn started_process_is_observed_without_free_descriptors() {
    run("started_process_is_observed_without_free_descriptors", observe_without_descriptors);
}

async fn observe_without_descriptors(_: Lines) {
    let spawned = Command::new("/bin/sh").args(["-c", "exit 3"]).spawn(None).unwrap();
    let limit = getrlimit(Resource::Nofile).current;
    set_soft_limit(Resource::Nofile, Some(3));
    let child = spawned.observe().unwrap();
    assert_eq!(child.reap().await, ExitStatus::Code(3));
    set_soft_limit(Resource::Nofile, limit);
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn streamed_body_without_descriptors_is_overload_and_keeps_the_worker() {
    let test = "streamed_body_without_descriptors_is_overload_and_keeps_the_worker";
    run(test, send_stream_without_descriptors);
}

async fn send_stream_without_descriptors(_: Lines) {
    let site = Site::start("application");
    let request = || {
        let (sender, stream) = Body::channel(None);
        sender.send("first\nsecond".into()).unwrap();
        sender.finish(None);
        post("/read", stream)
    };
    let limit = getrlimit(Resource::Nofile).current;
    set_soft_limit(Resource::Nofile, Some(3));
    for _ in 0..3 {
        let error = site.call(request()).await.unwrap_err();
        assert_eq!(kind(&error), Kind::Overloaded);
    }
    set_soft_limit(Resource::Nofile, limit);
    let response = site.call(request()).await.unwrap();
    assert_eq!(collect(response).await, "first\\n second 0");
    site.end().await;
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn file_of_an_application_without_descriptors_is_bad_gateway_and_keeps_the_worker() {
    let test = "file_of_an_application_without_descriptors_is_bad_gateway_and_keeps_the_worker";
    run(test, receive_file_without_descriptors);
}

async fn receive_file_without_descriptors(_: Lines) {
    let site = Site::start("application");
    let limit = getrlimit(Resource::Nofile).current;
    set_soft_limit(Resource::Nofile, Some(3));
    for _ in 0..3 {
        // The application has run: 503 would invite the client to repeat the request.
        assert_eq!(kind(&site.get("/file").await.unwrap_err()), Kind::BadGateway);
        let head = Request::head("/file").body(Body::empty()).unwrap();
        let response = site.call(head).await.unwrap();
        assert_eq!(response.headers()["content-length"], "10");
    }
    set_soft_limit(Resource::Nofile, limit);
    assert_eq!(collect(site.get("/file").await.unwrap()).await, "5678901234");
    site.end().await;
}

#[test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
fn php_without_a_descriptor_for_its_connection_is_overload_at_once() {
    let test = "php_without_a_descriptor_for_its_connection_is_overload_at_once";
    run(test, connect_to_php_without_descriptors);
}

async fn connect_to_php_without_descriptors(_: Lines) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("index.php"), "<?php echo 'hello';").unwrap();
    let builder = php(dir.path()).children(1).queue_timeout(2 * LONG);
    let builder = match rustix::process::geteuid().is_root() {
        true => builder.user(65534, 65534),
        false => builder,
    };
    let app = builder.start().unwrap();
    let limit = getrlimit(Resource::Nofile).current;
    set_soft_limit(Resource::Nofile, Some(3));
    let refused = timeout(LONG, app.clone().oneshot(get("/index.php"))).await;
    let error = refused.expect("it does not wait for another instance").unwrap_err();
    assert_eq!(kind(&error), Kind::Overloaded);
    set_soft_limit(Resource::Nofile, limit);
    let response = app.clone().oneshot(get("/index.php")).await.unwrap();
    assert_eq!(collect(response).await, "hello");
    app.shutdown(LONG).await.unwrap();
}

#[test]
#[cfg_attr(not(peer_root), ignore = "needs root, to become a user with a limit of processes")]
fn pool_without_processes_starts_workers_later() {
    run_with("pool_without_processes_starts_workers_later", as_nobody, run_out_of_processes);
}

/// Runs a scenario as a user whose number of processes the kernel limits, which root is not.
fn as_nobody(command: &mut process::Command) {
    const NOBODY: u32 = 65_534;
    command.uid(NOBODY).gid(NOBODY).env("TMPDIR", "/tmp").current_dir("/");
}

async fn run_out_of_processes(lines: Lines) {
    let (pool, worker, mut ready) = start().await;
    let limit = getrlimit(Resource::Nproc).current;
    set_soft_limit(Resource::Nproc, Some(0));
    kill(worker.pid, Signal::KILL);
    line(&lines, "worker", "cannot start a worker").await;
    let waits = pool.begin("/waits").await;
    set_soft_limit(Resource::Nproc, limit);
    next(&mut ready).await;
    assert!(text(&waits.await.unwrap()).starts_with("/waits"));
    pool.shutdown().await;
}

/// A small file system, which is unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
#[cfg_attr(not(peer_root), ignore = "needs root, to mount a small file system")]
fn reload_on_a_full_disk_keeps_the_old_workers() {
    const TEST: &str = "reload_on_a_full_disk_keeps_the_old_workers";
    if env::var_os(ROLE).is_some() {
        return run(TEST, run_out_of_disk);
    }
    let disk = SmallDisk(tempfile::tempdir().unwrap());
    let size = c"size=4m,nr_inodes=64";
    mount("tmpfs", disk.0.path(), "tmpfs", MountFlags::empty(), Some(size)).unwrap();
    let options = |command: &mut process::Command| {
        command.env("TMPDIR", disk.0.path());
    };
    run_with(TEST, options, run_out_of_disk);
}

async fn run_out_of_disk(_: Lines) {
    let (pool, ..) = start().await;
    let path = |n: usize| env::temp_dir().join(format!("fill-{n}"));
    let files = (0..).take_while(|n| fs::write(path(*n), "x").is_ok()).count();
    assert!(files < 64, "it is no small disk");
    // A new worker cannot create its socket. The old one continues.
    let error: BoxError = pool.processes().reload().await.unwrap_err().into();
    assert_eq!(cause::<ReloadFailed>(&error), ReloadFailed::Exited);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 0");
    for n in 0..=files {
        let _ = fs::remove_file(path(n)); // the last one may not be there
    }
    pool.processes().reload().await.unwrap();
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 2");
    pool.shutdown().await;
}
