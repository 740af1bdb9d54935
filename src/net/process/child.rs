//! A child process from its start until it is reaped.

use std::{
    fmt, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{self, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, fcntl_dupfd_cloexec},
    process::{
        Pid, PidfdFlags, Resource, Signal, WaitId, WaitIdOptions, getpgid, getpid,
        kill_process_group, pidfd_open, pidfd_send_signal, waitid,
    },
};
use tokio::io::unix::AsyncFd;

use super::{
    Command, FileAccess, ResourceLimit, StopSignal,
    before_exec::{self, LISTEN_FD, Plan},
    guardian::{Guardian, Registration},
    landlock::Ruleset,
};
use crate::net::async_fd::register_for_reads;

/// A child process that no runtime observes yet.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// `None` once it was passed to a [`Child`].
    process: Option<(Pid, OwnedFd)>,
    guarded: Option<Registration>,
    /// Its standard output and error.
    pub(crate) output: Option<[OwnedFd; 2]>,
}

/// A child process that this runtime observes. Its process group is killed when it ends, and when this value is
/// dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    /// Dropped before the process is reaped.
    guarded: Mutex<Option<Registration>>,
    is_reaped: AtomicBool,
    /// Whether its group was killed after its end.
    is_group_ended: AtomicBool,
}

/// The exit status of a child process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It exited with this status.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
    /// It has ended, and another part of the program has read its status.
    Unknown,
}

impl ExitStatus {
    /// Returns whether the process has failed, and has ended neither in order nor by the stop signal. A program that
    /// handles the signal may report it as a shell does, by 128 and its number.
    pub(crate) fn is_failure(self, stop: StopSignal) -> bool {
        let stop = Signal::from(stop).as_raw();
        match self {
            Self::Code(code) => code != 0 && code != 128 + stop,
            Self::Signal(signal) => signal != stop,
            Self::Unknown => false,
        }
    }
}

impl From<StopSignal> for Signal {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::Term => Self::TERM,
            StopSignal::Int => Self::INT,
            StopSignal::Quit => Self::QUIT,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("an unknown status"),
        }
    }
}

pub(super) fn spawn(command: &Command, listener: Option<&OwnedFd>) -> io::Result<Spawned> {
    // Occupies the number of the inherited descriptor, or a higher one, so that `Command` does not use it
    // for the pipe by which it reports errors.
    let listener = listener.map(|fd| fcntl_dupfd_cloexec(fd, LISTEN_FD)).transpose()?;
    let mut prepared = process::Command::new(&command.program);
    prepared.args(&command.args).process_group(0);
    prepared.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(dir) = &command.dir {
        prepared.current_dir(dir);
    }
    if let Some(uid) = command.uid {
        prepared.uid(uid);
    }
    if let Some(gid) = command.gid {
        prepared.gid(gid);
    }
    // Open until the child has been started.
    let ruleset = command.file_access.as_ref().map(FileAccess::ruleset).transpose()?.flatten();
    let plan = Plan {
        parent: getpid(),
        limits: command.limits.iter().map(|(resource, n)| (resource.into(), *n)).collect(),
        has_no_new_privileges: command.has_no_new_privileges || ruleset.is_some(),
        ruleset: ruleset.as_ref().map(Ruleset::as_raw_fd),
        listener: listener.as_ref().map(OwnedFd::as_raw_fd),
        environment: command.environment(),
    };
    before_exec::prepare(&mut prepared, plan)?;
    let mut child = prepared.spawn().map_err(|error| {
        let program = command.program.display();
        io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
    })?;
    let pid = Pid::from_child(&child);
    // The child is not reaped before this returns, so its id is not reused.
    let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = child.wait();
            return Err(error.into());
        }
    };
    let stdout = child.stdout.take().map(OwnedFd::from);
    let output = stdout.zip(child.stderr.take().map(OwnedFd::from)).map(|(out, err)| [out, err]);
    Ok(Spawned { process: Some((pid, pidfd)), guarded: None, output })
}

impl From<&ResourceLimit> for Resource {
    fn from(limit: &ResourceLimit) -> Self {
        match limit {
            ResourceLimit::AddressSpace => Self::As,
            ResourceLimit::CoreSize => Self::Core,
            ResourceLimit::OpenFiles => Self::Nofile,
            ResourceLimit::CpuSeconds => Self::Cpu,
            ResourceLimit::FileSize => Self::Fsize,
            ResourceLimit::Processes => Self::Nproc,
        }
    }
}

impl Spawned {
    /// A process that another child has started, and reaps. It leads a process group.
    ///
    /// # Errors
    /// Those of reading its number; `EINVAL` if it leads no group.
    pub(crate) fn adopt(pidfd: OwnedFd, output: [OwnedFd; 2]) -> io::Result<Self> {
        let pid = pid_of(&pidfd)?;
        if getpgid(Some(pid))? != pid {
            return Err(Errno::INVAL.into());
        }
        Ok(Self { process: Some((pid, pidfd)), guarded: None, output: Some(output) })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|(pid, _)| number(*pid))
    }

    /// Registers the child's process group with `guardian`, which kills it if this process ends before the child is
    /// reaped.
    pub(crate) fn guard(&mut self, guardian: &Arc<Guardian>) {
        self.guarded = self.pid().map(|pid| guardian.register(pid));
    }

    /// Observes the child in the current runtime. Needs no further descriptor.
    ///
    /// # Errors
    /// Those of epoll_ctl(2); the child is killed then.
    pub(crate) fn observe(mut self) -> io::Result<Child> {
        let (pid, pidfd) = self.process.take().expect("it is taken once, by value");
        match register_for_reads(pidfd) {
            Ok(pidfd) => {
                let guarded = Mutex::new(self.guarded.take());
                let [is_reaped, is_group_ended] = [false; 2].map(AtomicBool::new);
                Ok(Child { pid, pidfd, guarded, is_reaped, is_group_ended })
            }
            Err(error) => {
                let (pidfd, error) = error.into_parts();
                self.process = Some((pid, pidfd)); // and drops it
                Err(error)
            }
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        drop(self.guarded.take());
        if let Some((pid, pidfd)) = &self.process {
            kill_group(*pid);
            wait_and_reap(pidfd);
        }
    }
}

impl Child {
    pub(crate) fn pid(&self) -> u32 {
        number(self.pid)
    }

    /// Waits until the process has ended. It is not reaped.
    pub(crate) async fn ended(&self) {
        // A pidfd becomes readable when its process ends (pidfd_open(2)). An error means that the runtime is shutting
        // down.
        let _ = self.pidfd.readable().await;
    }

    /// Asks the process to end.
    pub(crate) fn terminate(&self, signal: StopSignal) {
        let signal = Signal::from(signal);
        // It fails only if the process has ended.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), signal);
    }

    /// Kills the process and all others of its group; after its end only once. From then on the id may be that of another
    /// group: the process may be reaped by the kernel, if SIGCHLD is ignored, or by init(8).
    pub(crate) fn kill_group(&self) {
        let has_ended = has_ended(self.pidfd.get_ref());
        if !has_ended || !self.is_group_ended.swap(true, Ordering::Relaxed) {
            kill_group(self.pid);
        }
    }

    /// Waits until the process has ended, kills the rest of its group, and reaps it.
    pub(crate) async fn reap(&self) -> ExitStatus {
        self.release().await;
        reap(self.pidfd.get_ref())
    }

    /// Waits until the process has ended, and kills what is left of its group. One that was
    /// [adopted](Spawned::adopt) is for its parent to reap after that.
    pub(crate) async fn release(&self) {
        self.ended().await;
        self.kill_group();
        self.unguard();
        self.is_reaped.store(true, Ordering::Relaxed);
    }

    /// Reaps a process that has ended and whose parent has not reaped it. If the parent has ended, that is for this process
    /// if it is the first one of its PID namespace.
    pub(crate) fn reap_orphan(&self) -> ExitStatus {
        reap(self.pidfd.get_ref())
    }

    fn unguard(&self) {
        // Nothing panics while the lock is held.
        drop(self.guarded.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Reads the number of a process from proc(5).
fn pid_of(pidfd: &OwnedFd) -> io::Result<Pid> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    // -1 if it has ended and was reaped, 0 if it is not of this namespace, 1 if it is the system's first.
    let number = line.and_then(|number| number.trim().parse().ok()).filter(|number| *number > 1);
    number.and_then(Pid::from_raw).ok_or_else(|| Errno::SRCH.into())
}

impl Drop for Child {
    fn drop(&mut self) {
        self.unguard();
        if !*self.is_reaped.get_mut() {
            self.kill_group();
            wait_and_reap(self.pidfd.get_ref());
        }
    }
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

fn kill_group(pid: Pid) {
    let _ = kill_process_group(pid, Signal::KILL); // fails only if the group has ended
}

/// Returns whether a process has ended.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)) == Ok(1)
}

/// Waits for the end of a process that was killed, and reaps it.
fn wait_and_reap(pidfd: &OwnedFd) {
    // The signal cannot be caught, so this is short.
    while poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None) == Err(Errno::INTR) {}
    reap(pidfd);
}

/// Reaps a process that has ended.
fn reap(pidfd: &OwnedFd) -> ExitStatus {
    // Not blocking, so that a spurious wake-up does not block the runtime.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    // ECHILD: the program ignores SIGCHLD, or waits for any child.
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), options).ok().flatten();
    let Some(status) = status else { return ExitStatus::Unknown };
    let signal = || status.terminating_signal().map(ExitStatus::Signal);
    status.exit_status().map(ExitStatus::Code).or_else(signal).unwrap_or(ExitStatus::Unknown)
}
