//! Tests of processes without requests.

use std::{env, path::Path};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{sync::mpsc, time::timeout};

use super::{
    super::*,
    processes::{ROLE, kill_parent, read_numbers, spawn_role},
    *,
};

/// The calls of a daemon's hooks.
#[derive(Debug, PartialEq)]
enum Event {
    Spawn(WorkerProcess),
    Exit(WorkerProcess, ExitStatus),
}

struct Running {
    daemon: Daemon,
    events: mpsc::UnboundedReceiver<Event>,
    /// Scripts create the file `ready` here.
    dir: tempfile::TempDir,
}

impl Running {
    fn start(script: &str, with: impl FnOnce(DaemonBuilder) -> DaemonBuilder) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let other = sender.clone();
        let dir = tempfile::tempdir().unwrap();
        let command = Command::new("/bin/sh").args(["-c", script]).current_dir(dir.path());
        let builder = daemon(command)
            .on_spawn(move |process| drop(sender.send(Event::Spawn(process))))
            .on_exit(move |(process, status)| drop(other.send(Event::Exit(process, status))));
        Self { daemon: with(builder).start().unwrap(), events, dir }
    }

    async fn spawned(&mut self) -> WorkerProcess {
        match timeout(LONG, self.events.recv()).await.expect("it comes") {
            Some(Event::Spawn(process)) => process,
            other => panic!("{other:?}"),
        }
    }

    async fn exited(&mut self) -> (u64, ExitStatus) {
        match timeout(LONG, self.events.recv()).await.expect("it comes") {
            Some(Event::Exit(process, status)) => (process.number, status),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the script has created the file `ready`, and removes it.
    async fn ready(&self) {
        take(&self.dir.path().join("ready")).await;
    }
}

async fn take(file: &Path) {
    let taken = async {
        while std::fs::remove_file(file).is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, taken).await.expect("the script creates it");
}

const ENDLESS: &str = "exec sleep 1000";

#[tokio::test]
async fn daemon_that_ends_is_started_again_and_counted() {
    let mut daemon = Running::start(ENDLESS, |builder| builder.instances(2));
    let first = [daemon.spawned().await, daemon.spawned().await];
    assert_eq!(daemon.daemon.stats().running, 2);
    kill_process(Pid::from_raw(first[1].pid as i32).unwrap(), Signal::KILL).unwrap();
    assert_eq!(daemon.exited().await, (first[1].number, ExitStatus::Signal(9)));
    let again = daemon.spawned().await;
    assert!(first.iter().all(|process| process.number != again.number));
    assert_eq!(daemon.daemon.stats().unexpected_exits, 1);
    daemon.daemon.shutdown(LONG).await.unwrap();
    let ended = [daemon.exited().await.1, daemon.exited().await.1];
    assert_eq!((ended, daemon.daemon.stats().running), ([ExitStatus::Signal(15); 2], 0));
    assert_eq!(daemon.daemon.stats().unexpected_exits, 1, "these were stopped");
}

#[tokio::test]
async fn daemon_is_stopped_by_its_signal_and_has_a_status_of_its_own() {
    let script = "trap 'exit 7' QUIT; sleep 1000 & touch ready; wait";
    let (sender, mut events) = mpsc::unbounded_channel();
    let dir = tempfile::tempdir().unwrap();
    let command = Command::new("/bin/sh").args(["-c", script]).current_dir(dir.path());
    let daemon = daemon(command.stop_signal(StopSignal::Quit));
    let daemon = daemon.on_exit(move |(_, status)| sender.send(status).unwrap()).start().unwrap();
    take(&dir.path().join("ready")).await;
    drop(daemon);
    assert_eq!(timeout(LONG, events.recv()).await.unwrap(), Some(ExitStatus::Code(7)));
}

#[tokio::test]
async fn daemon_that_does_not_end_is_killed_with_its_group() {
    let script = "trap '' TERM; sleep 1000 & touch ready; wait";
    let mut daemon = Running::start(script, |builder| builder.stop_timeout(SHORT));
    daemon.spawned().await;
    daemon.ready().await;
    let within = daemon.daemon.shutdown(Duration::ZERO).await.unwrap_err();
    assert_eq!(cause::<StillRunning>(&within.into()).workers, 1);
    assert_eq!(daemon.exited().await, (0, ExitStatus::Signal(9)));
    daemon.daemon.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn restarted_daemon_never_runs_twice() {
    let mut daemon = Running::start(ENDLESS, |builder| builder);
    for generation in 0..3 {
        let process = daemon.spawned().await;
        assert_eq!((process.number, process.generation), (generation, generation));
        assert!(daemon.daemon.restart());
        assert_eq!(daemon.exited().await, (generation, ExitStatus::Signal(15)));
    }
    daemon.spawned().await;
    assert_eq!(daemon.daemon.stats().generation, 3);
    daemon.daemon.shutdown(LONG).await.unwrap();
    assert!(!daemon.daemon.restart());
}

#[tokio::test]
async fn daemon_in_crash_loop_is_started_at_once_by_restart() {
    // From the third start on it keeps running.
    let script = "[ -e b ] && exec sleep 1000; [ -e a ] && touch b; touch a; exit 3";
    let mut daemon = Running::start(script, |builder| builder);
    for number in 0..2 {
        assert_eq!(daemon.spawned().await.number, number);
        assert_eq!(daemon.exited().await, (number, ExitStatus::Code(3)));
    }
    daemon.daemon.restart();
    // The restart may replace a start that was about to begin, together with its number.
    let process = daemon.spawned().await;
    assert!(process.number >= 2 && process.generation <= 1, "{process:?}");
    daemon.daemon.shutdown(LONG).await.unwrap();
}

#[test]
fn start_returns_the_error_of_a_missing_program() {
    let error = daemon(Command::new("/no/such/program")).start().unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    let error = daemon(Command::new("/bin/true")).instances(0).start().unwrap_err();
    assert_eq!(cause::<NoWorkers>(&error.into()), NoWorkers);
}

#[test]
fn daemon_and_its_children_end_with_a_killed_parent() {
    if env::var_os(ROLE).is_some() {
        // It ignores SIGTERM and has a child process. The log has its output.
        let script = "trap '' TERM; sleep 1000 & echo daemon $$ $!; wait";
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stdout);
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        let _daemon = daemon(Command::new("/bin/sh").args(["-c", script])).instances(2).start();
        std::thread::park_timeout(LONG);
        return;
    }
    let (mut program, _files) =
        spawn_role("daemons::daemon_and_its_children_end_with_a_killed_parent");
    let pids = read_numbers(&mut program, "daemon ", 4);
    kill_parent(program, pids);
}
