//! `php` and `PhpBuilder`: PHP applications.

mod connections;
mod exchange;
mod generation;
mod program;
mod service;

use std::{collections::BTreeMap, path::PathBuf, thread, time::Duration};

use self::{generation::Generations, program::Program};
pub use self::{
    program::{NoPhp, UserRequired},
    service::{Php, PhpStats, ResponseFuture as PhpFuture},
};
use super::{
    error::NoWorkers,
    executor::process::{Launch, ProcessExecutor, Protocol, Ready},
    pool::Pool,
    process::{GIVE_UP_FAILURES, GIVE_UP_PAUSE, START_TIMEOUT},
    settings::{QUEUE_PER_WORKER, QUEUE_TIMEOUT, REQUEST_TIMEOUT, RESTART_BACKOFF},
    supervisor,
};
use crate::{
    error::{Error, Kind},
    policy::restart::{Config, GiveUp, Recycle, Scale},
};

/// Run time after which php-fpm counts as stable, so that its next exit is a first failure: 10 s.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Runs the PHP application in a folder with php-fpm, or with php-cgi if php-fpm is not installed. See [`Php`] for the
/// contract.
///
/// The `.php` files of the folder are scripts (see [`Scripts`](crate::semantics::cgi::Scripts)). All other paths are
/// handled by the [front controller](PhpBuilder::front_controller), which is `/index.php`. Other files are not served: serve
/// a folder without scripts with [`files`](crate::files).
///
/// ```no_run
/// use vestibule::{Router, files, worker};
///
/// let php = worker::php("/srv/shop/public").children(8).start()?;
/// let site = Router::new().nest("/assets", files::dir("/srv/shop/public/assets")).fallback(php);
/// # drop(site);
/// # Ok::<_, vestibule::Error>(())
/// ```
///
/// If static files lie beside the scripts, as those of WordPress do, [exclude](crate::files::DirBuilder::exclude_suffix) the
/// scripts, whose source would be served otherwise:
///
/// ```no_run
/// use vestibule::{files::DirBuilder, worker};
///
/// let php = worker::php("/srv/blog").children(8).start()?;
/// let site = DirBuilder::dir("/srv/blog").exclude_suffix(".php").or(php);
/// # drop(site);
/// # Ok::<_, vestibule::Error>(())
/// ```
pub fn php(dir: impl Into<PathBuf>) -> PhpBuilder {
    let children = thread::available_parallelism().map_or(2, |n| 2 * usize::from(n));
    PhpBuilder {
        dir: dir.into(),
        children,
        spare: None,
        queue: None,
        queue_timeout: QUEUE_TIMEOUT,
        request_timeout: REQUEST_TIMEOUT,
        recycle_after: 0,
        front_controller: Some("/index.php".to_owned()),
        captures_output: true,
        program: None,
        user: None,
        ini: BTreeMap::new(),
        env: Vec::new(),
    }
}

/// Settings of [`Php`], created by [`php`].
#[derive(Debug)]
#[must_use = "nothing runs before start()"]
pub struct PhpBuilder {
    dir: PathBuf,
    children: usize,
    /// The number of idle children to keep. `None`: the number of children is constant.
    spare: Option<usize>,
    queue: Option<usize>,
    queue_timeout: Duration,
    request_timeout: Duration,
    recycle_after: u64,
    front_controller: Option<String>,
    captures_output: bool,
    program: Option<PathBuf>,
    user: Option<(u32, u32)>,
    ini: BTreeMap<String, String>,
    env: Vec<(String, String)>,
}

impl PhpBuilder {
    /// Sets the number of PHP processes, each of which runs one request at a time. The default is twice the number
    /// of cores. Zero is an error of [`start`](Self::start).
    pub fn children(mut self, n: usize) -> Self {
        self.children = n;
        self
    }

    /// Makes php-fpm vary the number of processes, up to [`children`](Self::children), and keep `n` idle ones
    /// (`pm = dynamic`), at least 1. By default their number is constant (`pm = static`). php-cgi ignores this option.
    pub fn spare(mut self, n: usize) -> Self {
        self.spare = Some(n.max(1));
        self
    }

    /// Sets how many requests may wait for a process. The default is
    /// [`QUEUE_PER_WORKER`](super::QUEUE_PER_WORKER) for each process.
    pub fn queue(mut self, len: usize) -> Self {
        self.queue = Some(len);
        self
    }

    /// Sets how long a request may wait for a permit and a process. The default is
    /// [`QUEUE_TIMEOUT`](super::QUEUE_TIMEOUT). A request that waits longer is not run.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout;
        self
    }

    /// Sets the maximum time before the head of a response, and between two pieces of its body. The default is
    /// [`REQUEST_TIMEOUT`](super::REQUEST_TIMEOUT). It also limits the whole request in php-fpm
    /// (`request_terminate_timeout`, set to 1 s more, since it includes the idle time before the request), which kills and
    /// replaces a process that exceeds it.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Replaces a PHP process after `requests` requests. With 0, the default, processes are not replaced.
    pub fn recycle_after(mut self, requests: u64) -> Self {
        self.recycle_after = requests;
        self
    }

    /// Sets the script for all paths that do not name one. The default is `/index.php`, as frameworks expect it. If it does
    /// not exist, such a path is answered with 404.
    pub fn front_controller(mut self, name: impl Into<String>) -> Self {
        self.front_controller = Some(name.into());
        self
    }

    /// Answers paths that do not name a script with 404, also if there is an `/index.php`: for sites with a script for each
    /// page.
    pub fn without_front_controller(mut self) -> Self {
        self.front_controller = None;
        self
    }

    /// Sets whether php-fpm logs what scripts, and programs that they start, write to their standard output and error,
    /// such as `php://stderr`. It does so by default, and its main process wakes up for that after each request: without
    /// it a small script takes a tenth less CPU. PHP's error log is captured in any case. php-cgi ignores this option.
    pub fn capture_output(mut self, enabled: bool) -> Self {
        self.captures_output = enabled;
        self
    }

    /// Sets the program: php-cgi if its file name contains `cgi`, otherwise php-fpm. By default it is searched for in
    /// `PATH`, `/usr/sbin` and `/usr/local/sbin`, with or without a version in its name.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Sets the user and group of the scripts. Required if this process runs as root: scripts run as root only if it
    /// is set here.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Sets a directive of `php.ini`, for example `upload_max_filesize`.
    pub fn ini(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.ini.insert(name.into(), value.into());
        self
    }

    /// Sets a variable in `$_SERVER` and in the environment of the scripts, for example `APP_ENV`. Scripts also see the
    /// environment of this program (`clear_env = no`, as in PHP's container image): a script that prints all variables prints
    /// its secrets, too.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts PHP and blocks until it accepts requests.
    ///
    /// # Errors
    /// [`Kind::Internal`], after all processes have ended. Its source is [`NoPhp`], [`UserRequired`],
    /// [`ExitedEarly`](super::ExitedEarly), [`NotReady`](super::NotReady), [`NoWorkers`], or an
    /// [`io::Error`](std::io::Error) if the folder does not exist or a process could not be started.
    pub fn start(self) -> Result<Php, Error> {
        let internal = |error: crate::BoxError| Error::new(Kind::Internal, error);
        if self.children == 0 {
            return Err(internal(NoWorkers.into()));
        }
        let queue = self.queue.unwrap_or_else(|| self.children.saturating_mul(QUEUE_PER_WORKER));
        let program = Program::find(self.program.as_deref()).map_err(internal)?;
        let generations = Generations::new(&self).map_err(|error| internal(error.into()))?;
        let (command, config_dir) = program.command(&self).map_err(internal)?;
        let stop_timeout = self.request_timeout;
        let ready = Ready::Listening(generations.clone());
        let mut launch = Launch::new(command, Protocol::Http { has_path: true, ready, lanes: 1 });
        launch.stop_timeout = stop_timeout;
        let config = Config {
            workers: 1,
            scale: Scale::FIXED,
            max_abandoned: 1,
            request_timeout: Duration::MAX,
            drain_timeout: None,
            grace: Duration::MAX,
            backoff: RESTART_BACKOFF,
            start_timeout: Some(START_TIMEOUT),
            give_up: Some(GiveUp { failures: GIVE_UP_FAILURES, pause: GIVE_UP_PAUSE }),
            stable_after: Some(STABLE_AFTER),
            recycle: Recycle::NEVER,
            refork_after: None,
        };
        let pool = Pool::new(config, 0, Duration::ZERO);
        let executor =
            ProcessExecutor::new(pool.clone(), launch).map_err(|error| internal(error.into()))?;
        let supervisor = supervisor::start(&pool, executor)?;
        let times = service::Times {
            queue: self.queue_timeout,
            request: self.request_timeout,
            start: START_TIMEOUT,
        };
        let bounds = (self.children, queue);
        Ok(Php::new(pool, supervisor, generations, config_dir, bounds, times))
    }
}
