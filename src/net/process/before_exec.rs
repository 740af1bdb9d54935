//! The steps of a child process between fork(2) and execve(2).
//!
//! Only async-signal-safe calls are allowed there, since other threads of the parent may have held any lock when it
//! forked. So everything is allocated before the fork, and the child only makes system calls.

#![allow(unsafe_code, reason = "CommandExt::pre_exec")]

use std::{
    ffi::{CString, OsString, c_char},
    io::{self, Write},
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStringExt, process::CommandExt},
    },
    process::Command,
    ptr,
};

use rustix::{
    io::{Errno, FdFlags, dup2, fcntl_setfd},
    process::{
        Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setrlimit,
    },
    thread::set_no_new_privs,
};

use super::landlock::restrict_self;

/// Descriptor of an inherited socket, as sd_listen_fds(3) numbers the first.
pub(super) const LISTEN_FD: RawFd = 3;

/// The steps beyond those of [`Command`] itself.
pub(super) struct Plan {
    /// The process that forks.
    pub(super) parent: Pid,
    pub(super) limits: Vec<(Resource, u64)>,
    pub(super) has_no_new_privileges: bool,
    /// The descriptor of a ruleset that stays open until the child has been started.
    pub(super) ruleset: Option<RawFd>,
    /// A descriptor that stays open until the child has been started.
    pub(super) listener: Option<RawFd>,
    pub(super) environment: Vec<(OsString, OsString)>,
}

/// Makes `command` execute the plan in its child.
///
/// The listener of the plan must stay open as long as the command is used.
pub(super) fn prepare(command: &mut Command, plan: Plan) -> io::Result<()> {
    let Plan { parent, limits, has_no_new_privileges, ruleset, listener, environment } = plan;
    let mut environment = Environment::new(environment, listener.is_some())?;
    let run = move || {
        reset_stop_signals();
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the signal was set.
        if getppid() != Some(parent) {
            return Err(Errno::SRCH.into());
        }
        for (resource, limit) in &limits {
            let limit = Some(*limit);
            setrlimit(*resource, Rlimit { current: limit, maximum: limit })?;
        }
        if has_no_new_privileges {
            set_no_new_privs(true)?;
        }
        // Before another descriptor may take the number of the ruleset.
        if let Some(ruleset) = ruleset {
            restrict_self(ruleset)?;
        }
        let first = match listener {
            Some(listener) => {
                inherit(listener)?;
                LISTEN_FD + 1
            }
            None => LISTEN_FD,
        };
        close_on_exec_from(first);
        environment.install();
        Ok(())
    };
    // SAFETY: `run` makes system calls and writes to memory that it owns: it allocates nothing and
    // takes no lock. The errors that it returns are numbers.
    unsafe { command.pre_exec(run) };
    Ok(())
}

/// Sets the stop signals to their default action. A shell that starts a program in the background makes it ignore
/// SIGINT and SIGQUIT, and execve(2) keeps ignored signals.
fn reset_stop_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: signal(2) is async-signal-safe, and SIG_DFL installs no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Makes `listener` descriptor [`LISTEN_FD`], and inheritable.
fn inherit(listener: RawFd) -> rustix::io::Result<()> {
    // SAFETY: both are open in this process, which is about to run another program: the listener by
    // the contract of `prepare`, and its target because dup2 opens it. Neither is closed here.
    let (listener, mut target) =
        unsafe { (OwnedFd::from_raw_fd(listener), OwnedFd::from_raw_fd(LISTEN_FD)) };
    let is_in_place = std::os::fd::AsRawFd::as_raw_fd(&listener) == LISTEN_FD;
    let result = match is_in_place {
        // dup2 of a descriptor to itself does nothing, and keeps FD_CLOEXEC.
        true => fcntl_setfd(&listener, FdFlags::empty()),
        false => dup2(&listener, &mut target),
    };
    std::mem::forget((listener, target));
    result
}

/// Marks all descriptors from `first` on as close-on-exec, including those that libraries have opened without
/// the flag. Kernels before 5.11 do not support that; the descriptors of this crate have the flag anyway.
fn close_on_exec_from(first: RawFd) {
    // SAFETY: the call changes flags of descriptors only; arguments are passed as the kernel has them.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// The environment of the child, as execve(2) takes it.
struct Environment {
    /// Owns what `pointers` point to.
    _entries: Vec<CString>,
    /// `LISTEN_PID=`, with room for the number.
    listen_pid: Option<Box<[u8; 32]>>,
    pointers: Vec<*const c_char>,
}

const LISTEN_PID: &[u8] = b"LISTEN_PID=";

// SAFETY: the pointers point to memory that the value owns, and are used in the child only, which has
// one thread.
unsafe impl Send for Environment {}
// SAFETY: as above; a shared reference gives no access to anything.
unsafe impl Sync for Environment {}

impl Environment {
    fn new(variables: Vec<(OsString, OsString)>, listens: bool) -> io::Result<Self> {
        let mut entries = Vec::with_capacity(variables.len() + 1);
        for (name, value) in variables {
            if listens && (name == "LISTEN_PID" || name == "LISTEN_FDS" || name == "LISTEN_FDNAMES")
            {
                continue;
            }
            let mut entry = name.into_vec();
            entry.push(b'=');
            entry.extend(value.into_vec());
            entries.push(CString::new(entry)?);
        }
        let mut listen_pid = None;
        if listens {
            entries.push(c"LISTEN_FDS=1".to_owned());
            listen_pid = Some(Box::new([0; 32]));
        }
        let mut pointers: Vec<*const c_char> = entries.iter().map(|entry| entry.as_ptr()).collect();
        pointers.extend(listen_pid.iter().map(|pid| pid.as_ptr().cast::<c_char>()));
        pointers.push(ptr::null());
        Ok(Self { _entries: entries, listen_pid, pointers })
    }

    /// Installs it as the environment of this process, the child.
    fn install(&mut self) {
        if let Some(buffer) = &mut self.listen_pid {
            let mut rest = &mut buffer[..];
            // The buffer is larger than any process id, and its rest is zeros.
            let _ = rest.write_all(LISTEN_PID);
            let _ = write!(rest, "{}", getpid().as_raw_nonzero());
        }
        unsafe extern "C" {
            static mut environ: *const *const c_char;
        }
        // SAFETY: the child has one thread, and the vector lives until execve has copied it. `Command`
        // sets no environment of its own here, so it passes this one on.
        unsafe { environ = self.pointers.as_ptr() };
    }
}
