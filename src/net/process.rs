//! Child processes: their description, start, observation and end.

mod before_exec;
mod child;
mod guardian;
mod landlock;
mod lines;
mod memory;
mod scheduling;
mod socket;

#[cfg(test)]
mod tests;

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

pub use child::ExitStatus;
pub(crate) use child::{Child, Spawned};
pub(crate) use guardian::Guardian;
pub use landlock::{FileAccess, LandlockUnsupported};
pub(crate) use lines::read_lines;
pub(crate) use memory::memory;
pub use scheduling::schedule_for_throughput;
pub(crate) use socket::{SocketDir, bind};

/// A resource with a limit for each process, see setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResourceLimit {
    /// Bytes of address space (`RLIMIT_AS`).
    AddressSpace,
    /// Bytes of a core dump (`RLIMIT_CORE`).
    CoreSize,
    /// One more than the highest descriptor (`RLIMIT_NOFILE`).
    OpenFiles,
    /// Seconds of processor time (`RLIMIT_CPU`).
    CpuSeconds,
    /// Bytes of a file that is written (`RLIMIT_FSIZE`).
    FileSize,
    /// Processes of the same user (`RLIMIT_NPROC`).
    Processes,
}

/// The signal that asks a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum StopSignal {
    /// `SIGTERM`, which most programs take as a request for a graceful shutdown.
    #[default]
    Term,
    /// `SIGINT`.
    Int,
    /// `SIGQUIT`, which php-fpm and nginx take as a request for a graceful shutdown.
    Quit,
}

/// A program, its arguments and its environment.
///
/// Like [`std::process::Command`], but it can be started repeatedly: all workers of all generations are started from
/// the same value.
///
/// A child process that is started from it
/// - has `/dev/null` as its standard input, and its standard output and error are read line by line;
/// - inherits the environment with the changes made here, and no other descriptor;
/// - leads its own process group, so that signals of a terminal do not reach it;
/// - receives `SIGKILL` when its parent ends.
///
/// ```
/// use vestibule::net::process::{Command, ResourceLimit};
///
/// let command = Command::new("gunicorn")
///     .arg("mysite.wsgi")
///     .env("DJANGO_SETTINGS_MODULE", "mysite.settings")
///     .current_dir("/srv/mysite/current")
///     .limit(ResourceLimit::OpenFiles, 1024)
///     .no_new_privileges();
/// # drop(command);
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is started yet"]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    /// Changes to the environment; later ones take precedence. `None` removes a variable.
    env: Vec<(OsString, Option<OsString>)>,
    inherits_env: bool,
    dir: Option<PathBuf>,
    uid: Option<u32>,
    gid: Option<u32>,
    limits: Vec<(ResourceLimit, u64)>,
    has_no_new_privileges: bool,
    stop_signal: StopSignal,
    file_access: Option<FileAccess>,
}

impl Command {
    /// Creates a command for the program of this name in `PATH`, or at this path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            inherits_env: true,
            dir: None,
            uid: None,
            gid: None,
            limits: Vec::new(),
            has_no_new_privileges: false,
            stop_signal: StopSignal::Term,
            file_access: None,
        }
    }

    /// Replaces the program.
    pub(crate) fn program(mut self, program: impl AsRef<OsStr>) -> Self {
        program.as_ref().clone_into(&mut self.program);
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes a variable of the environment.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Clears the environment, including variables that were set before.
    pub fn env_clear(mut self) -> Self {
        self.env.clear();
        self.inherits_env = false;
        self
    }

    /// Sets the working directory. A program with a relative path is looked up from there.
    ///
    /// Symbolic links in it are resolved once for each generation of workers: a restarted worker runs the same
    /// release as the others, and a reload uses the current one.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Sets the user. If this process runs as root, the child has no supplementary groups.
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Sets the group.
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    /// Limits the use of a resource (the soft and the hard limit of setrlimit(2)). The limit is set after the user,
    /// so it can only be lowered unless the child runs as root.
    pub fn limit(mut self, resource: ResourceLimit, limit: u64) -> Self {
        self.limits.push((resource, limit));
        self
    }

    /// Prevents the process and its children from gaining privileges by set-user-ID programs (`PR_SET_NO_NEW_PRIVS`,
    /// see prctl(2)).
    pub fn no_new_privileges(mut self) -> Self {
        self.has_no_new_privileges = true;
        self
    }

    /// Sets the signal that asks the process to end. The default is [`StopSignal::Term`].
    pub fn stop_signal(mut self, signal: StopSignal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// Returns the signal that asks the process to end.
    pub(crate) fn signal(&self) -> StopSignal {
        self.stop_signal
    }

    /// Restricts the process and its children to these files. It implies
    /// [`no_new_privileges`](Self::no_new_privileges), which the kernel demands for it.
    ///
    /// # Errors
    /// The start fails with [`LandlockUnsupported`] as the inner error of an [`io::Error`], if the kernel cannot
    /// restrict it and that is not accepted, and with one that names the path if a path does not exist.
    pub fn file_access(mut self, access: FileAccess) -> Self {
        self.file_access = Some(access);
        self
    }

    /// Allows the process to create files in this directory, if its files are restricted.
    pub(crate) fn allow_writes(mut self, dir: &Path) -> Self {
        self.file_access = self.file_access.map(|access| access.read_write(dir));
        self
    }

    /// Returns the working directory.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Returns the user and group of files for the process.
    pub(crate) fn owner(&self) -> (Option<u32>, Option<u32>) {
        (self.uid, self.gid)
    }

    /// Returns whether an argument contains `name`.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.args.iter().any(|arg| arg.to_str().is_some_and(|text| text.contains(name)))
    }

    /// Replaces `name` in all arguments, and in the variables that were set, by `value`.
    pub(crate) fn substitute(mut self, name: &str, value: &str) -> Self {
        let variables = self.env.iter_mut().filter_map(|(_, set)| set.as_mut());
        for text in self.args.iter_mut().chain(variables) {
            if let Some(found) = text.to_str().filter(|text| text.contains(name)) {
                *text = found.replace(name, value).into();
            }
        }
        self
    }

    /// Returns a command that runs a shell script, in which this command is `$@`.
    #[cfg(test)]
    pub(crate) fn by_shell(mut self, script: &str) -> Self {
        // `$0` of the shell is this name.
        let program = std::fs::canonicalize(&self.program).expect("the program exists");
        let mut args: Vec<OsString> = vec!["-c".into(), script.into(), "sh".into(), program.into()];
        args.append(&mut self.args);
        Self { program: "/bin/sh".into(), args, ..self }
    }

    /// Starts a child process. It inherits `listener` as descriptor 3, with `LISTEN_FDS` and
    /// `LISTEN_PID` as in sd_listen_fds(3).
    ///
    /// The thread that calls this must outlive the child: the kernel ends the child with its parent's
    /// *thread* (`PR_SET_PDEATHSIG`, see prctl(2)).
    ///
    /// # Errors
    /// Those of fork(2), execve(2), and the settings between them.
    pub(crate) fn spawn(&self, listener: Option<&OwnedFd>) -> io::Result<Spawned> {
        child::spawn(self, listener)
    }

    /// Returns the environment of the child, without `LISTEN_PID`.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut all: Vec<(OsString, OsString)> =
            if self.inherits_env { std::env::vars_os().collect() } else { Vec::new() };
        for (name, value) in &self.env {
            all.retain(|(n, _)| n != name);
            all.extend(value.as_ref().map(|value| (name.clone(), value.clone())));
        }
        all
    }
}
