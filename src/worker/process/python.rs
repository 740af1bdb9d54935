//! `wsgi` and `asgi`: Python applications without another server.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    ProcessesBuilder, Protocol,
    protocol::{MAX_LANES, sealed::Sealed},
};
use crate::{
    conn::tunnels::TunnelOptions, error::BoxError, net::process::Command, worker::executor::process,
};

/// The source text of the worker program, which the worker reads from its socket.
const WORKER: &str = include_str!("../python/worker.py");

/// Reads the program from the socket that the worker inherits, and runs it.
const BOOTSTRAP: &str = "import socket\n\
    front = socket.socket(fileno=3)\n\
    exec(compile(front.recv(1 << 20), 'vestibule/worker.py', 'exec'))\n\
    main(front)";

/// Creates a pool of worker processes that run a WSGI application (PEP 3333): Django, Flask, or any other. It needs a
/// Python interpreter, version 3.9 or later, and no other server. It is tested with CPython 3.9 to 3.14.
///
/// `application` is a module and an object in it, for example `mysite.wsgi:application`. The object defaults to
/// `application`. With `()` after its name, it is a factory, which is called when the application is loaded.
///
/// The interpreter is that of the environment variable `VIRTUAL_ENV` if it is set, and otherwise `python3` in `PATH`.
/// The module is searched for in the [directory](ProcessesBuilder::directory), and then in the interpreter's search
/// path.
///
/// ```no_run
/// use vestibule::{serve, worker};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let django = worker::wsgi("mysite.wsgi:application")
///     .directory("/srv/mysite")
///     .workers(4)
///     .recycle_after(10_000, 1_000)
///     .start()?;
/// serve("127.0.0.1:8080", django).await?;
/// # Ok(())
/// # }
/// ```
///
/// The handle is [`Processes`](super::super::Processes), with its contract. Beyond that:
///
/// **Requests.** A worker receives a parsed request. Its `environ` has the variables of CGI (RFC 3875 section 4.1)
/// and of PEP 3333, and `REQUEST_URI` and `RAW_URI` with the unchanged target. `PATH_INFO` is the decoded [normal
/// form](crate::semantics::target::normalize) of the path, and `SCRIPT_NAME` the prefix that a
/// [`Router`](crate::Router) has removed. A path with an escaped slash is refused with
/// [`Kind::BadRequest`](crate::error::Kind::BadRequest). Fields whose names contain an underscore are omitted, and so
/// is `Proxy`. The client's address is that of its [`Peer`](crate::peer::Peer). A body of up to 64 KiB is sent with
/// the request, a body in a file as a descriptor, and any other through a pipe: `wsgi.input` may be read to its end
/// in each case.
///
/// **The next requests.** While no worker is idle, a worker whose requests take less than 5 ms is sent its next ones
/// before it has answered the current one, so that it does not sleep in between: one, or as many as it answers in 2 ms, at
/// most 16. Until the worker reads them, they still count as queued, and another worker that becomes idle takes them.
///
/// **Responses.** A body in one piece is passed on as a whole. An iterated body is passed on piece by piece, before
/// the application is asked for the next piece. A file in `wsgi.file_wrapper` is sent by `sendfile`. `close` is
/// always called, before the worker gets its next request.
///
/// **Errors.** An exception is logged with its traceback, and its request fails with
/// [`Kind::Internal`](crate::error::Kind::Internal), as does one with an invalid response. The source is an
/// [`ApplicationError`](super::super::ApplicationError). The worker continues. Output to `wsgi.errors` is logged with
/// the request; standard output and error are logged like those of all worker processes.
///
/// **Disconnects.** When the client disconnects during a streamed response, the worker notices it at its next piece,
/// which may be empty: `close` is called, and `write` raises an exception.
///
/// **Processes.** One process loads the application for each generation of workers and forks them, unless
/// [`preload`](ProcessesBuilder::preload) is `false`. If it ends, its workers continue, and it is started again for
/// the next worker. With [`refork_after`](ProcessesBuilder::refork_after), a worker that has answered requests takes its
/// place.
///
/// **Stop.** A worker that is stopped, or that has exceeded its request timeout, gets `SIGTERM`, which raises
/// `SystemExit` in the application. A `SIGTERM` that this process has not sent has no effect on workers and on the process that
/// forks them: systemd signals all processes of a service at once, while this process still completes its requests.
pub fn wsgi(application: &str) -> ProcessesBuilder<Python> {
    ProcessesBuilder::new(Python::new(application, "wsgi", 1))
}

/// Creates a pool of worker processes that run an ASGI application (version 3): Starlette, FastAPI, Django with async
/// views. It is like [`wsgi`] with these differences:
///
/// **Requests.** Each process runs many concurrent requests, up to [`threads`](ProcessesBuilder::threads), in one
/// asyncio event loop. Each of them counts as a worker in the figures of the pool, with its own request timeout: the
/// task of a request that takes too long is cancelled. If it has not ended a second later, for example since it blocks the
/// event loop, its process is replaced, which closes the WebSockets of the process. A task that continues after its response, for example a
/// `BackgroundTask` of Starlette, is not: when its worker is replaced or stopped, it has the
/// [stop timeout](ProcessesBuilder::stop_timeout). No request is sent ahead.
///
/// **Lifespan.** Each process runs the lifespan protocol, if the application supports it: a worker is ready after the
/// startup, and a failed startup is a failed start. The state is passed to requests.
///
/// **Bodies.** The bodies of requests and responses are streamed. A file of `http.response.pathsend` is sent by
/// `sendfile`. When the client disconnects, even before the response, the application receives `http.disconnect`, and
/// `send` raises an `OSError`. Trailers are not supported.
///
/// **WebSockets.** The scope `websocket` is supported, with the extension `websocket.http.response`. A message has at
/// most 1 MiB (the client gets the code 1009 for a larger one), and at most 16 are queued for the application. An
/// accepted WebSocket occupies no worker and has no request timeout; [`websockets`](ProcessesBuilder::websockets) sets
/// its bounds. Pings are answered. The client gets the code 1000 when the application returns, and 1011 after an exception.
/// A WebSocket has no end to wait for, so it is closed at once when the server begins a shutdown (1001), and when its worker
/// is replaced or stopped (1012). The application then receives `websocket.disconnect`. If its worker ends, its task is
/// cancelled a second later.
///
/// ```no_run
/// use vestibule::{serve, worker};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let starlette = worker::asgi("app.main:app").directory("/srv/app").workers(4).start()?;
/// serve("127.0.0.1:8080", starlette).await?;
/// # Ok(())
/// # }
/// ```
pub fn asgi(application: &str) -> ProcessesBuilder<Python> {
    ProcessesBuilder::new(Python::new(application, "asgi", ASGI_LANES))
        .allow_tunnels(TunnelOptions::new().drain_timeout(Duration::ZERO))
}

/// Default maximum number of concurrent requests of a process of [`asgi`]: 32.
const ASGI_LANES: usize = 32;

/// How long a task of an ASGI application that was cancelled may take to end: 1 s.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// A Python application, which receives requests in frames: the protocol of [`wsgi`] and [`asgi`].
#[derive(Debug)]
pub struct Python {
    application: String,
    interface: &'static str,
    lanes: usize,
    interpreter: Option<PathBuf>,
    is_preloaded: bool,
    refork_after: Option<u64>,
    /// The function that is called before a worker becomes the mould.
    before_refork: Option<String>,
    /// Everything except the program and its arguments.
    command: Command,
}

impl Python {
    fn new(application: &str, interface: &'static str, lanes: usize) -> Self {
        Self {
            application: application.to_owned(),
            interface,
            lanes,
            interpreter: None,
            is_preloaded: true,
            refork_after: None,
            before_refork: None,
            command: Command::new(""),
        }
    }

    /// Returns the argument for the program: nothing without reforks, otherwise the function, or `-` if there is none.
    ///
    /// # Errors
    /// The settings exclude each other.
    fn refork(&self) -> Result<String, BoxError> {
        if self.refork_after.is_none() {
            let why = "before_refork() needs refork_after()";
            return self.before_refork.as_ref().map_or(Ok(String::new()), |_| Err(why.into()));
        }
        if self.interface != "wsgi" || self.lanes > 1 {
            return Err("refork_after() needs wsgi() with one thread, since a process with threads or an event loop cannot be forked".into());
        }
        if !self.is_preloaded {
            return Err("refork_after() needs preload(true), which forks workers".into());
        }
        let function = self.before_refork.as_deref().unwrap_or("-");
        if function != "-" && !function.contains(':') {
            return Err(format!("before_refork() needs module:function, not {function}").into());
        }
        Ok(function.to_owned())
    }
}

impl Protocol for Python {}

impl Sealed for Python {
    fn into_parts(self) -> Result<(Command, process::Protocol), BoxError> {
        let refork = self.refork()?;
        let Self { application, interface, lanes, interpreter, is_preloaded, command, .. } = self;
        let interpreter = interpreter
            .map_or_else(|| find_interpreter(env::var_os("VIRTUAL_ENV")), PathBuf::into_os_string);
        let mode = if is_preloaded { "zygote" } else { "worker" };
        let command = command.program(interpreter).args(["-c", BOOTSTRAP, interface]);
        let command = command.args([&*application, mode, &*lanes.to_string(), &*refork]);
        let protocol = process::Protocol::Gate {
            program: WORKER,
            is_forked: is_preloaded,
            lanes,
            is_sequential: interface == "wsgi",
        };
        Ok((command, protocol))
    }

    fn lanes(&self) -> usize {
        self.lanes
    }

    fn refork_after(&self) -> Option<u64> {
        self.refork_after
    }

    fn grace(&self) -> Duration {
        if self.interface == "asgi" { CANCEL_GRACE } else { Duration::ZERO }
    }
}

/// Returns the interpreter of the virtual environment in this directory, or `python3`. An empty variable counts as one that
/// is not set.
fn find_interpreter(virtual_env: Option<OsString>) -> OsString {
    let virtual_env = virtual_env.filter(|dir| !dir.is_empty());
    let in_environment = virtual_env.map(|dir| Path::new(&dir).join("bin/python"));
    in_environment.map_or_else(|| "python3".into(), PathBuf::into_os_string)
}

impl ProcessesBuilder<Python> {
    /// Sets the interpreter: a path, or a name in `PATH`. The interpreter of a virtual environment uses its packages.
    /// The default is `bin/python` below `VIRTUAL_ENV` if that is set, and otherwise `python3`.
    pub fn python(mut self, interpreter: impl AsRef<Path>) -> Self {
        self.protocol.interpreter = Some(interpreter.as_ref().to_owned());
        self
    }

    /// Sets the bounds of WebSockets. The default for [`asgi`] is [`TunnelOptions::new`] with a
    /// [drain timeout](TunnelOptions::drain_timeout) of zero. [`wsgi`] does not support WebSockets.
    pub fn websockets(self, options: TunnelOptions) -> Self {
        if self.protocol.interface == "asgi" { self.allow_tunnels(options) } else { self }
    }

    /// Sets the working directory, which is searched first for the module of the application. Symbolic links in it
    /// are resolved once for each generation of workers, see [`Processes::reload`](super::super::Processes::reload).
    /// The default is that of this process.
    pub fn directory(self, dir: impl AsRef<Path>) -> Self {
        self.configure(|command| command.current_dir(dir))
    }

    /// Sets an environment variable.
    pub fn env(self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.configure(|command| command.env(name, value))
    }

    /// Sets the maximum number of concurrent requests of each process: the number of threads (WSGI), or of tasks in
    /// one event loop (ASGI). The default is 1 for WSGI and 32 for ASGI; the minimum is 1, and the maximum 1,000.
    ///
    /// Each counts as a worker: in [`Stats`](super::super::Stats), for the queue, and in all limits of the number of
    /// workers. [`workers`](Self::workers) is the number of processes. Each also needs two descriptors of this process, and
    /// twice as many during a reload; the soft limit of open files (`RLIMIT_NOFILE`) is raised for them, as far as the hard
    /// limit permits. A process without a free descriptor for its requests does not become ready.
    ///
    /// A response that lasts, such as a stream of server-sent events or a long poll, counts until it ends, so an ASGI
    /// application with many of them needs a higher number, and a longer
    /// [`request_timeout`](Self::request_timeout), which includes the body of the response. Accepted WebSockets do not count.
    ///
    /// A thread cannot be interrupted: when one exceeds its request timeout, its process is replaced. It gets no further
    /// requests as soon as its replacement is ready, and is stopped when the requests of its other threads have ended:
    /// by `SIGTERM`, and after the [stop timeout](Self::stop_timeout) by `SIGKILL`.
    pub fn threads(mut self, n: usize) -> Self {
        self.protocol.lanes = n.clamp(1, MAX_LANES);
        self
    }

    /// Sets whether the application is loaded once for each generation of workers, by a process that forks them. The
    /// default is `true`: workers share the memory of the loaded application, and a worker that has ended is replaced
    /// within milliseconds.
    ///
    /// Workers are copies of the process after it has loaded the application. An application that starts threads or
    /// opens connections while it is loaded needs `false`, so that each worker loads it, or `os.register_at_fork`.
    pub fn preload(mut self, is_preloaded: bool) -> Self {
        self.protocol.is_preloaded = is_preloaded;
        self
    }

    /// Makes a worker that has completed `requests` requests, at least 1, the process from which the other workers are forked
    /// again, so that they share the memory of what it has loaded and cached meanwhile. This happens once for each generation
    /// of workers. It is off by default, and possible only with [`wsgi`], one thread and [`preload`](Self::preload).
    ///
    /// The first worker that has completed so many requests is replaced like a [recycled](Self::recycle_after) one, and
    /// then forks the replacements of the others, [`recycle_at_a_time`](Self::recycle_at_a_time). Workers serve until their
    /// replacements are ready, so no request waits for this or is lost. If the process ends, workers are forked by the one
    /// that has loaded the application, until another worker has completed enough requests.
    ///
    /// **What must not be copied.** A thread does not exist in a copy of its process, and processes that share a connection
    /// to a database read each other's responses. So before it forks, the worker calls the function of
    /// [`before_refork`](Self::before_refork) and closes Django's connections to databases and caches. If it then has
    /// more than one thread, or a connected stream socket that was opened since it was forked, it is stopped instead, a
    /// warning names the reason, and no worker of this generation is asked again. Other state is copied: locks,
    /// temporary files, identifiers, database files. `os.register_at_fork` changes it in each copy.
    ///
    /// A copy begins with the memory of that worker. So set a limit of memory well above what a worker has after that many
    /// requests, or its copies are recycled at once, and [`recycle_after`](Self::recycle_after) above `requests`: a worker
    /// that is to be recycled is not chosen.
    ///
    /// ```no_run
    /// use vestibule::worker;
    ///
    /// let site = worker::wsgi("mysite.wsgi").workers(8).refork_after(1_000);
    /// let site = site.before_refork("mysite.database:dispose").start()?;
    /// # Ok::<_, vestibule::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`start`](Self::start) fails if it is not possible, or if workers are recycled before.
    pub fn refork_after(mut self, requests: u64) -> Self {
        self.protocol.refork_after = Some(requests.max(1));
        self
    }

    /// Sets a function of the application, for example `mysite.database:dispose`, that is called without arguments before a
    /// worker becomes the process that forks others, see [`refork_after`](Self::refork_after). It closes connections and
    /// ends threads. It has [`stop_timeout`](Self::stop_timeout). If it raises an exception, the worker does not fork.
    pub fn before_refork(mut self, function: &str) -> Self {
        self.protocol.before_refork = Some(function.to_owned());
        self
    }

    /// Changes other settings of the processes: user, group, limits and the environment. Arguments are passed to the
    /// interpreter, before its program.
    ///
    /// ```
    /// use vestibule::{net::process::ResourceLimit, worker};
    ///
    /// let builder = worker::wsgi("mysite.wsgi")
    ///     .configure(|command| command.limit(ResourceLimit::OpenFiles, 1024).env_remove("SECRET"));
    /// # drop(builder);
    /// ```
    pub fn configure(mut self, change: impl FnOnce(Command) -> Command) -> Self {
        self.protocol.command = change(self.protocol.command);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreter_is_that_of_the_virtual_environment_or_python3() {
        assert_eq!(find_interpreter(Some("/srv/venv".into())), "/srv/venv/bin/python");
        assert_eq!(find_interpreter(None), "python3");
        assert_eq!(find_interpreter(Some("".into())), "python3");
    }
}
