//! Scripted WSGI applications.

use std::marker::PhantomData;

use super::{
    processes::{CONTROL, InProcesses},
    *,
};

/// The application, which follows the same script as `child.rs`.
const APPLICATION: &str = include_str!("scripted.py");

/// How a pool runs the application.
pub(in super::super) trait Mode {
    /// The number of requests that a process runs at a time.
    const LANES: usize = 1;

    /// Creates the settings of the pool.
    fn builder() -> ProcessesBuilder<Python>;
}

/// Each process loads the application.
pub(in super::super) struct Loaded;

/// The processes are forked from one that has loaded the application.
pub(in super::super) struct Forked;

/// ASGI, with one request at a time.
pub(in super::super) struct Asgi;

/// Each process runs requests in several threads.
pub(in super::super) struct Threaded;

/// Each process runs requests in several tasks of one event loop.
pub(in super::super) struct AsgiTasks;

impl Mode for Loaded {
    fn builder() -> ProcessesBuilder<Python> {
        wsgi("scripted").preload(false)
    }
}

impl Mode for Forked {
    fn builder() -> ProcessesBuilder<Python> {
        wsgi("scripted").env("FORKED", "1")
    }
}

impl Mode for Asgi {
    fn builder() -> ProcessesBuilder<Python> {
        asgi("scripted:asgi").threads(1).preload(false)
    }
}

impl Mode for Threaded {
    const LANES: usize = 3;

    fn builder() -> ProcessesBuilder<Python> {
        wsgi("scripted").threads(Self::LANES).preload(false).env("LANES", "1")
    }
}

impl Mode for AsgiTasks {
    const LANES: usize = 3;

    fn builder() -> ProcessesBuilder<Python> {
        asgi("scripted:asgi").threads(Self::LANES).preload(false).env("LANES", "1")
    }
}

/// A pool of worker processes with scripted Python applications. Each worker has its own control connection and build.
pub(in super::super) struct InPython<M = Loaded>(pub(in super::super) InProcesses, PhantomData<M>);

impl<M: Mode> InPython<M> {
    /// Starts a pool with options beyond those of all placements.
    pub(in super::super) fn start_with(
        builds: Vec<Build>,
        options: impl FnOnce(ProcessesBuilder<Python>) -> ProcessesBuilder<Python>,
    ) -> Result<Self, Error> {
        let pool = InProcesses::start_controlled(builds, |dir| {
            std::fs::write(dir.join("scripted.py"), APPLICATION).unwrap();
            let builder = M::builder().directory(dir).env("CONTROL", dir.join(CONTROL));
            options(builder.env("PYTHONDONTWRITEBYTECODE", "1")).start()
        });
        pool.map(|pool| Self(pool, PhantomData))
    }
}

impl<M: Mode> Placement for InPython<M> {
    type Handle = Processes;

    const LANES: usize = M::LANES;
    const SHORT: Duration = InProcesses::SHORT;
    const STREAM_LEFT: Option<u64> = Some(3); // of 6 in all
    const HAS_TRAILERS: bool = false;

    fn assert_crashed(error: &BoxError) {
        assert_eq!(kind(error), Kind::BadGateway);
    }

    fn assert_broken(error: &BoxError) {
        let message = "OSError: the disk is gone".to_owned();
        assert_eq!(cause::<ApplicationError>(error), ApplicationError::Raised { message });
    }

    fn start(settings: Settings) -> Result<Self, Error> {
        let Settings { workers, max_workers, idle_timeout, queue, .. } = settings;
        let Settings { queue_timeout, request_timeout, max_abandoned, recycle_after, .. } =
            settings;
        let builds = settings.builds;
        Self::start_with(builds, |builder| {
            let builder = match recycle_after {
                Some(requests) => builder.recycle_after(requests, 0),
                None => builder,
            };
            builder
                .workers(workers)
                .max_workers(max_workers)
                .idle_timeout(idle_timeout)
                .queue(queue)
                .queue_timeout(queue_timeout)
                .request_timeout(request_timeout)
                .max_abandoned(max_abandoned)
                .stop_timeout(LONG)
        })
    }

    fn handle(&self) -> &Processes {
        self.0.handle()
    }

    async fn entered(&mut self) -> String {
        self.0.entered().await
    }

    fn has_entered(&mut self) -> bool {
        self.0.has_entered()
    }

    async fn built(&mut self, n: usize) {
        self.0.built(n).await;
    }

    fn builds(&self) -> usize {
        self.0.builds()
    }

    fn release(&self, path: &str) {
        self.0.release(path);
    }
}
