//! Scripted applications in child processes that run this test program.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, atomic::Ordering},
    thread,
};

use tempfile::TempDir;

use super::{
    child,
    control::{Control, Events},
    *,
};

/// Name of the socket that controls the applications.
pub(super) const CONTROL: &str = "control";

/// A pool of worker processes with scripted applications.
pub(in super::super) struct InProcesses {
    processes: Processes,
    events: Events,
    control: Arc<Control>,
    /// The directory of the socket that controls the applications.
    _dir: TempDir,
}

impl InProcesses {
    /// Starts a pool with options beyond those of all placements.
    pub(in super::super) fn start_with(
        builds: Vec<Build>,
        options: impl FnOnce(ProcessesBuilder) -> ProcessesBuilder,
    ) -> Result<Self, Error> {
        Self::start_command(builds, |command| command, options)
    }

    pub(in super::super) fn start_command(
        builds: Vec<Build>,
        change: impl FnOnce(Command) -> Command,
        options: impl FnOnce(ProcessesBuilder) -> ProcessesBuilder,
    ) -> Result<Self, Error> {
        Self::start_controlled(builds, |dir| {
            let builder = process(change(child::command(&dir.join(CONTROL)))).socket_path();
            options(builder).start()
        })
    }

    /// Starts a pool whose applications are controlled through the socket [`CONTROL`] in a directory.
    pub(super) fn start_controlled(
        builds: Vec<Build>,
        start: impl FnOnce(&Path) -> Result<Processes, Error>,
    ) -> Result<Self, Error> {
        let (control, events, dir) = listen(builds);
        let processes = start(dir.path())?;
        Ok(Self { processes, events, control, _dir: dir })
    }

    pub(in super::super) fn processes(&self) -> &Processes {
        &self.processes
    }
}

/// Listens for applications on the socket [`CONTROL`] in a new directory.
pub(super) fn listen(builds: Vec<Build>) -> (Arc<Control>, Events, TempDir) {
    let (control, events) = Control::new(builds);
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(CONTROL)).unwrap();
    let shared = control.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let shared = shared.clone();
            thread::spawn(move || attend(&stream.unwrap(), &shared));
        }
    });
    (control, events, dir)
}

/// Controls one application, until it ends.
fn attend(stream: &UnixStream, control: &Arc<Control>) {
    let mut writer = stream;
    let mut say = |text: String| writer.write_all(text.as_bytes());
    let (n, build) = control.begin_build();
    let _ = say(format!("{n} {build:?}\n"));
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("entered", path)) => drop(control.entered.send(path.to_owned())),
            Some(("wait", name)) => {
                let (control, name) = (control.clone(), name.to_owned());
                let mut stream = stream.try_clone().unwrap();
                thread::spawn(move || {
                    control.wait(&name);
                    let _ = stream.write_all(format!("go {name}\n").as_bytes());
                });
            }
            _ => panic!("{line}"),
        }
    }
}

impl Placement for InProcesses {
    type Handle = Processes;

    const SHORT: Duration = Duration::from_millis(300);
    const STREAM_LEFT: Option<u64> = None; // it is chunked, since it has trailers
    const HAS_TRAILERS: bool = true;

    fn assert_crashed(error: &BoxError) {
        assert_eq!(kind(error), Kind::BadGateway);
    }

    fn assert_broken(error: &BoxError) {
        assert_eq!(kind(error), Kind::BadGateway);
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
                // A stuck worker remains stuck until it is released, like a thread.
                .stop_timeout(LONG)
        })
    }

    fn handle(&self) -> &Processes {
        &self.processes
    }

    async fn entered(&mut self) -> String {
        self.events.entered.recv().await.expect("the test holds a sender")
    }

    fn has_entered(&mut self) -> bool {
        self.events.entered.try_recv().is_ok()
    }

    async fn built(&mut self, n: usize) {
        while self.events.built.recv().await.expect("the test holds a sender") != n {}
    }

    fn builds(&self) -> usize {
        self.control.started.load(Ordering::SeqCst)
    }

    fn release(&self, path: &str) {
        self.control.release(path);
    }
}

impl Handle for Processes {
    fn stats(&self) -> Stats {
        self.stats()
    }

    fn gate(&self) -> Gate {
        self.gate()
    }

    fn close(&self) {
        self.close();
    }

    async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        self.shutdown(within).await
    }

    async fn reload(&self) -> Result<(), Error> {
        self.reload().await
    }
}
