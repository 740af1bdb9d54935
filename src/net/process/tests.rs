//! Tests with real processes: `/bin/sh`, which every Linux has.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    os::unix::net::UnixStream,
    path::Path,
    process,
    sync::Arc,
};

use super::*;

fn sh(script: &str) -> Command {
    Command::new("/bin/sh").args(["-c", script])
}

/// Starts a child, waits for its end, and returns its output and its status.
async fn run(command: Command) -> (Vec<String>, ExitStatus) {
    let mut spawned = command.spawn(None).unwrap();
    let [stdout, stderr] = spawned.output.take().unwrap();
    let child = spawned.observe().unwrap();
    let mut lines = Vec::new();
    read_lines(stdout, |line| lines.push(line.to_owned())).await.unwrap();
    read_lines(stderr, |line| lines.push(line.to_owned())).await.unwrap();
    (lines, child.reap().await)
}

/// Returns whether a process exists and has not ended.
fn is_alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits for the end of a process that is not a child of this one.
async fn wait_for_end(pid: &str) {
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return; // it has ended and is reaped
    };
    let ended = tokio::task::spawn_blocking(move || {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)) // readable at its end
    });
    assert_eq!(ended.await.unwrap().unwrap(), 1, "the process has not ended");
}

#[tokio::test]
async fn command_sets_environment_directory_and_limits() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo $A $B-$HOME; pwd; ulimit -n; cat; echo done >&2; exit 3";
    let command = sh(script)
        .env("B", "x")
        .env_clear()
        .env("A", "1")
        .env("A", "2")
        .env("HOME", "/")
        .env_remove("HOME")
        .current_dir(dir.path())
        .limit(ResourceLimit::OpenFiles, 64)
        .no_new_privileges();
    let (lines, status) = run(command).await;
    let dir = dir.path().canonicalize().unwrap();
    assert_eq!(lines, ["2 -", dir.to_str().unwrap(), "64", "done"]);
    assert_eq!(status, ExitStatus::Code(3));
}

#[tokio::test]
async fn command_sets_each_resource_limit() {
    let limits = [
        (ResourceLimit::AddressSpace, 4 << 30, "Max address space", "4294967296"),
        (ResourceLimit::CoreSize, 0, "Max core file size", "0"),
        (ResourceLimit::OpenFiles, 64, "Max open files", "64"),
        (ResourceLimit::CpuSeconds, 1000, "Max cpu time", "1000"),
        (ResourceLimit::FileSize, 1 << 20, "Max file size", "1048576"),
        (ResourceLimit::Processes, 1000, "Max processes", "1000"),
    ];
    let command = sh("cat /proc/self/limits");
    let command = limits.iter().fold(command, |command, (limit, n, ..)| command.limit(*limit, *n));
    let (lines, _) = run(command).await;
    for (_, _, name, value) in limits {
        let line = lines.iter().find_map(|line| line.strip_prefix(name)).expect(name);
        let values: Vec<_> = line.split_whitespace().take(2).collect();
        assert_eq!(values, [value, value], "{name}");
    }
}

#[tokio::test]
#[cfg_attr(not(peer_root), ignore = "run as root: only root can set the ids of a process")]
async fn child_has_the_ids_of_its_command_and_no_supplementary_groups() {
    let script = "grep -E '^(Uid|Gid|Groups):' /proc/self/status";
    let (lines, _) = run(sh(script).uid(65534).gid(65533)).await;
    let lines: Vec<Vec<&str>> =
        lines.iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["Uid:", "65534", "65534", "65534", "65534"]);
    assert_eq!(lines[1], ["Gid:", "65533", "65533", "65533", "65533"]);
    assert_eq!(lines[2], ["Groups:"]);
}

#[tokio::test]
async fn child_has_no_new_privileges_and_no_other_descriptors() {
    // A descriptor without FD_CLOEXEC, as a library in C may open it.
    let leaked = rustix::io::dup(File::open("/dev/null").unwrap()).unwrap();
    assert!(!rustix::io::fcntl_getfd(&leaked).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let script =
        "grep NoNewPrivs /proc/self/status; for fd in /proc/$$/fd/*; do echo ${fd##*/}; done";
    let (lines, _) = run(sh(script).no_new_privileges()).await;
    // The shell may open its script's directory while it lists it.
    assert_eq!(lines[..4], ["NoNewPrivs:\t1", "0", "1", "2"]);
    assert!(
        !lines[4..].contains(&std::os::fd::AsRawFd::as_raw_fd(&leaked).to_string()),
        "{lines:?}"
    );
}

#[tokio::test]
async fn child_inherits_its_socket_as_the_first_descriptor() {
    let dir = SocketDir::new((None, None)).unwrap();
    let path = dir.path("s");
    let listener = bind(&path).unwrap();
    let script = "echo $LISTEN_FDS $((LISTEN_PID - $$)) $(readlink /proc/$$/fd/3 | cut -c1-7)";
    let command = sh(script).env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "x");
    let mut spawned = command.spawn(Some(&listener)).unwrap();
    drop(listener);
    let [stdout, _stderr] = spawned.output.take().unwrap();
    let mut lines = Vec::new();
    let child = spawned.observe().unwrap();
    read_lines(stdout, |line| lines.push(line.to_owned())).await.unwrap();
    assert_eq!(lines, ["1 0 socket:"]);
    assert_eq!(child.reap().await, ExitStatus::Code(0));
    assert!(UnixStream::connect(&path).is_err(), "no other process has the socket");
    let parent = path.parent().unwrap().to_owned();
    drop(dir);
    assert!(!parent.exists());
}

#[tokio::test]
async fn program_that_does_not_exist_is_an_error() {
    let error = Command::new("no/such/program").spawn(None).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let error = sh("exit").current_dir("/no/such/directory").spawn(None).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn terminated_child_reports_its_signal_and_takes_its_group_with_it() {
    let mut spawned = sh("sleep 1000 & echo $!; wait").spawn(None).unwrap();
    let [stdout, _stderr] = spawned.output.take().unwrap();
    let child = spawned.observe().unwrap();
    let mut first = String::new();
    let mut stdout = BufReader::new(File::from(stdout));
    stdout.read_line(&mut first).unwrap();
    child.terminate(StopSignal::Term);
    assert_eq!(child.reap().await, ExitStatus::Signal(15));
    // The rest of the group has the pipe open until it ends.
    assert_eq!(stdout.read_to_string(&mut String::new()).unwrap(), 0);
    wait_for_end(first.trim()).await;
}

#[tokio::test]
async fn p1_child_of_the_program_is_left_to_it() {
    let mut other = process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
    let (_, status) = run(sh("exit 3")).await;
    assert_eq!(status, ExitStatus::Code(3));
    assert_eq!(other.wait().unwrap().code(), Some(7));
}

#[tokio::test]
async fn dropped_child_is_killed_and_reaped() {
    for is_observed in [false, true] {
        let spawned = sh("trap '' TERM; while :; do sleep 1000; done").spawn(None).unwrap();
        let pid = spawned.pid().unwrap().to_string();
        assert!(is_alive(&pid));
        if is_observed {
            drop(spawned.observe().unwrap());
        } else {
            drop(spawned);
        }
        assert!(!Path::new("/proc").join(&pid).exists(), "it is a zombie");
    }
}

#[tokio::test]
async fn long_lines_are_read_in_pieces_and_last_line_without_its_end() {
    let script = "head -c 20000 /dev/zero | tr '\\0' x; printf '\\r\\n\\n\\377y\\nlast'";
    let (lines, _) = run(sh(script)).await;
    let lengths: Vec<usize> = lines.iter().map(String::len).collect();
    assert_eq!(lengths[..3], [8192, 8192, 3616]);
    assert_eq!(lines[3..], ["\u{fffd}y", "last"]);
}

#[tokio::test]
async fn guardian_kills_the_registered_groups() {
    let sleeper = || {
        let mut command = process::Command::new("sleep");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.arg("1000").stdin(process::Stdio::null()).spawn().unwrap()
    };
    let (mut spared, mut killed) = (sleeper(), sleeper());
    let guardian = Arc::new(Guardian::start().unwrap());
    let registrations = [guardian.register(killed.id()), guardian.register(spared.id())];
    let [_killed, of_spared] = registrations;
    drop(of_spared);
    guardian.abandon();
    let status = tokio::task::spawn_blocking(move || killed.wait()).await.unwrap().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert!(spared.try_wait().unwrap().is_none());
    // A dropped guardian kills no process.
    let guardian = Arc::new(Guardian::start().unwrap());
    let registration = guardian.register(spared.id());
    drop(guardian);
    drop(registration);
    assert!(spared.try_wait().unwrap().is_none());
    spared.kill().unwrap();
    spared.wait().unwrap();
}

#[tokio::test]
async fn child_is_removed_from_guardian_however_it_is_reaped() {
    let guardian = Arc::new(Guardian::start().unwrap());
    let start = || {
        let mut spawned = sh("sleep 1000").spawn(None).unwrap();
        spawned.guard(&guardian);
        spawned
    };
    let (dropped, observed, reaped) = (start(), start(), start());
    assert_eq!(guardian.registered(), 3);
    drop(dropped);
    assert_eq!(guardian.registered(), 2);
    drop(observed.observe().unwrap());
    assert_eq!(guardian.registered(), 1);
    let reaped = reaped.observe().unwrap();
    reaped.kill_group();
    assert_eq!(reaped.reap().await, ExitStatus::Signal(9));
    assert_eq!(guardian.registered(), 0);
}

/// Runs a script that may read and execute all files, and write those of `dir` alone.
async fn run_restricted(script: &str, dir: &Path) -> Vec<String> {
    let access = FileAccess::new().read_only("/").read_write(dir).read_write("/dev/null");
    run(sh(script).env("DIR", dir).file_access(access)).await.0
}

#[tokio::test]
#[cfg_attr(not(peer_landlock), ignore = "needs Linux 5.13 with landlock(7)")]
async fn restricted_child_writes_only_where_it_is_allowed_to() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let elsewhere = outside.path().join("file");
    std::fs::write(&elsewhere, "kept").unwrap();
    let script = format!(
        "echo new > $DIR/file && cat $DIR/file; cat {0}; echo; {{ echo x > {0}; }} 2>/dev/null || echo refused; \
         rm {0} 2>/dev/null || echo refused; grep NoNewPrivs /proc/self/status",
        elsewhere.display()
    );
    let lines = run_restricted(&script, inside.path()).await;
    assert_eq!(lines, ["new", "kept", "refused", "refused", "NoNewPrivs:\t1"]);
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "kept");
}

#[tokio::test]
#[cfg_attr(not(peer_landlock), ignore = "needs Linux 5.13 with landlock(7)")]
async fn restricted_child_reads_only_where_it_is_allowed_to() {
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("key"), "secret").unwrap();
    let mut access = FileAccess::new().read_write("/dev/null");
    for dir in ["/bin", "/usr", "/lib", "/lib64", "/etc"] {
        access = if Path::new(dir).exists() { access.read_only(dir) } else { access };
    }
    let script = "cat $KEY 2>/dev/null || echo refused";
    let command = sh(script).env("KEY", secret.path().join("key"));
    assert_eq!(run(command.clone()).await.0, ["secret"]);
    assert_eq!(run(command.file_access(access)).await.0, ["refused"]);
}

#[tokio::test]
#[cfg_attr(not(peer_landlock), ignore = "needs Linux 5.13 with landlock(7)")]
async fn restriction_to_a_path_that_does_not_exist_is_an_error() {
    let access = FileAccess::new().read_only("/").read_only("/no/such/path");
    let error = sh("exit").file_access(access).spawn(None).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/path"), "{error}");
}

#[test]
fn kernel_that_cannot_restrict_is_a_typed_error() {
    let access = FileAccess::new().read_only("/");
    let error = access.ruleset_of(None).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    let inner = error.get_ref().unwrap().downcast_ref::<LandlockUnsupported>();
    assert_eq!(inner, Some(&LandlockUnsupported));
    assert!(access.or_unrestricted().ruleset_of(None).unwrap().is_none());
}

#[test]
fn failure_is_any_end_except_exit_0_and_the_stop_signal() {
    let is_failure = |status: ExitStatus| status.is_failure(StopSignal::Term);
    for status in [ExitStatus::Code(0), ExitStatus::Code(143), ExitStatus::Signal(15)] {
        assert!(!is_failure(status), "{status}");
    }
    for status in [ExitStatus::Code(3), ExitStatus::Code(131), ExitStatus::Signal(9)] {
        assert!(is_failure(status), "{status}");
    }
}

#[tokio::test]
async fn group_of_a_process_that_has_ended_is_killed_once() {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    let child = Command::new("/bin/true").spawn(None).unwrap().observe().unwrap();
    child.ended().await;
    child.kill_group();
    // Another group gets the id of the one that has ended.
    let mut other = process::Command::new("/bin/sleep");
    let mut other = other.arg("1000").process_group(child.pid() as i32).spawn().unwrap();
    child.kill_group();
    assert_eq!(child.reap().await, ExitStatus::Code(0));
    drop(child);
    let pid = rustix::process::Pid::from_child(&other);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(other.wait().unwrap().signal(), Some(15), "SIGKILL would come first");
}
