//! `wsgi`: Python applications without another server.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use super::{ProcessesBuilder, Protocol, protocol::sealed::Sealed};
use crate::{
    conn::tunnels::TunnelOptions, error::BoxError, net::process::Command, worker::executor::process,
};

/// The program of a worker, which it is sent over its socket.
const WORKER: &str = include_str!("../python/worker.py");

/// Reads the program from the socket that the worker inherits, and runs it.
const BOOTSTRAP: &str = "import socket\n\
    front = socket.socket(fileno=3)\n\
    exec(compile(front.recv(1 << 20), 'vestibule/worker.py', 'exec'))\n\
    main(front)";

/// A pool of worker processes that run a WSGI application (PEP 3333): Django, Flask, or any other. Nothing is
/// needed but a Python interpreter, from 3.9 on, and the application.
///
/// `application` is the name of a module and of an object in it, `mysite.wsgi:application`. The object may
/// be left out if it is `application`; with `()` behind its name it is called once in each worker, for the
/// application.
///
/// The interpreter is that of `VIRTUAL_ENV`, if the environment has this variable, and otherwise `python3` in
/// `PATH`. The module is looked for in the [directory](ProcessesBuilder::directory), and where the interpreter
/// looks otherwise.
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
/// **Requests.** A worker is sent a parsed request. Its `environ` has what CGI has (RFC 3875 section 4.1) and
/// what PEP 3333 demands, and `REQUEST_URI` and `RAW_URI` with the target as it came. `PATH_INFO` is the
/// [normal form](crate::semantics::target::normalize) of the path, decoded, and `SCRIPT_NAME` what a
/// [`Router`](crate::Router) has removed of it; a path with an escaped slash is refused with
/// [`Kind::BadRequest`](crate::error::Kind::BadRequest). Fields whose names have an underscore are left out, as is
/// `Proxy`. The client's address is that of its [`Peer`](crate::peer::Peer). A body of up to 64 KiB travels with
/// the request, one that lies in a file as its descriptor, and any other through a pipe: `wsgi.input` may be
/// read to its end in each case.
///
/// **The next request.** While no worker is idle, one whose requests take less than 5 ms is sent its next request
/// before it has answered the present one, so that it need not sleep in between. That request still waits in the
/// queue: another worker that becomes idle takes it, and a worker that ends leaves it to others.
///
/// **Responses.** A body in one piece is passed on whole. One that is iterated over is passed on piece by piece,
/// before the application is asked for the next. A file in `wsgi.file_wrapper` leaves by `sendfile`. `close`
/// is always called, before the worker is given its next request.
///
/// **Errors.** An exception is logged with its traceback and answered with
/// [`Kind::Internal`](crate::error::Kind::Internal), and so is a response that is not valid; its source is an
/// [`ApplicationError`](super::super::ApplicationError). The worker goes on. What is written to `wsgi.errors` is logged with
/// the request, and what is written to standard output and error as that of all worker processes.
///
/// **Client gone.** When the client leaves during a streamed response, the worker learns of it at its next piece,
/// an empty one included: `close` is called, and `write` raises an exception.
///
/// **Processes.** One process loads the application for each generation of workers and forks them, unless
/// [`preload`](ProcessesBuilder::preload) is `false`. If it ends, its workers go on, and the next worker that is
/// needed has another one loaded.
///
/// **End.** A worker that is to end, or that exceeded its request timeout, gets `SIGTERM`, which raises
/// `SystemExit` in the application.
pub fn wsgi(application: &str) -> ProcessesBuilder<Python> {
    ProcessesBuilder::new(Python::new(application, "wsgi", 1))
}

/// A pool of worker processes that run an ASGI application (version 3): Starlette, FastAPI, Django with async views.
/// It is [`wsgi`] with these differences:
///
/// **Requests.** Each process answers many requests at a time, up to
/// [`threads`](ProcessesBuilder::threads), in one event loop of asyncio. Each of these is a worker in the
/// figures of the pool, with a request timeout of its own: the task of a request that takes too long is
/// cancelled. None is sent another request before it has answered one.
///
/// **Lifespan.** Each process runs the lifespan protocol, if the application has it: a worker is ready after the
/// startup, and a failed startup is a failed start. The state is passed on to requests.
///
/// **Bodies.** Those of requests and of responses are streamed. A file of `http.response.pathsend` leaves by
/// `sendfile`. When the client leaves during a streamed response, the application receives `http.disconnect`, and
/// `send` raises an `OSError`. Trailers are not supported.
///
/// **WebSockets.** The scope `websocket`, with the extension `websocket.http.response`. A message has 1 MiB at most (the
/// client gets the code 1009), and 16 wait for the application at most. A WebSocket that was accepted occupies no
/// worker and has no request timeout; [`websockets`](ProcessesBuilder::websockets) sets its bounds. Pings are
/// answered. When the application returns, the client gets the code 1000, after an exception 1011, and 1012 when the
/// worker ends.
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
        .allow_tunnels(TunnelOptions::new())
}

/// Default number of requests that a process of [`asgi`] answers at a time: 32.
const ASGI_LANES: usize = 32;

/// The most of them, 64: each has a socket.
const MAX_LANES: usize = 64;

/// A Python application, which is sent requests in frames: the workers of [`wsgi`].
#[derive(Debug)]
pub struct Python {
    application: String,
    interface: &'static str,
    lanes: usize,
    interpreter: Option<PathBuf>,
    is_preloaded: bool,
    /// All but the program and its arguments.
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
            command: Command::new(""),
        }
    }
}

impl Protocol for Python {}

impl Sealed for Python {
    fn into_parts(self) -> Result<(Command, process::Protocol), BoxError> {
        let Self { application, interface, lanes, interpreter, is_preloaded, command } = self;
        let interpreter = interpreter.map_or_else(find_interpreter, PathBuf::into_os_string);
        let mode = if is_preloaded { "zygote" } else { "worker" };
        let command = command.program(interpreter).args(["-c", BOOTSTRAP, interface]);
        let command = command.args([&*application, mode, &*lanes.to_string()]);
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
}

/// The interpreter of the virtual environment, or `python3`.
fn find_interpreter() -> OsString {
    let in_environment = env::var_os("VIRTUAL_ENV").map(|dir| Path::new(&dir).join("bin/python"));
    in_environment.map_or_else(|| "python3".into(), PathBuf::into_os_string)
}

impl ProcessesBuilder<Python> {
    /// Sets the interpreter: a path, or a name in `PATH`. The one of a virtual environment uses the packages of
    /// that. The default is `bin/python` below `VIRTUAL_ENV` if that is set, and otherwise `python3`.
    pub fn python(mut self, interpreter: impl AsRef<Path>) -> Self {
        self.protocol.interpreter = Some(interpreter.as_ref().to_owned());
        self
    }

    /// Sets the bounds of WebSockets. The default is [`TunnelOptions::new`] for [`asgi`]; applications for WSGI have
    /// none.
    pub fn websockets(self, options: TunnelOptions) -> Self {
        if self.protocol.interface == "asgi" { self.allow_tunnels(options) } else { self }
    }

    /// Sets the working directory, where the module of the application is looked for first. Symbolic links in
    /// it are resolved once for each generation of workers, see
    /// [`Processes::reload`](super::super::Processes::reload). The default is that of this process.
    pub fn directory(self, dir: impl AsRef<Path>) -> Self {
        self.configure(|command| command.current_dir(dir))
    }

    /// Sets a variable of the environment.
    pub fn env(self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.configure(|command| command.env(name, value))
    }

    /// Sets how many requests each process answers at a time: with so many threads (WSGI), or in tasks of one
    /// event loop (ASGI). The default is 1 and 32; the most is 64.
    ///
    /// Each counts as a worker: in [`Stats`](super::super::Stats), for the queue, and for each limit of a number of
    /// workers. [`workers`](Self::workers) is the number of processes.
    ///
    /// A thread cannot be interrupted: one that exceeds its request timeout is abandoned, and another process takes
    /// its place. Its own process ends when the last of its threads does.
    pub fn threads(mut self, n: usize) -> Self {
        self.protocol.lanes = n.clamp(1, MAX_LANES);
        self
    }

    /// Sets whether the application is loaded once for each generation of workers, by a process that forks them.
    /// The default is `true`: workers share the memory of what is loaded, and one that has ended is replaced within
    /// milliseconds.
    ///
    /// Workers have copies of what exists when the application is loaded. One that starts threads or opens
    /// connections as it is loaded needs `false`, or `os.register_at_fork`: then each worker loads it.
    pub fn preload(mut self, is_preloaded: bool) -> Self {
        self.protocol.is_preloaded = is_preloaded;
        self
    }

    /// Changes other settings of the processes: user, group, limits and the environment. Arguments are passed to
    /// the interpreter, before its program.
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
