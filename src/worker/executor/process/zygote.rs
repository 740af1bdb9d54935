//! `Zygote`: a process that loads the application once and forks the workers of a generation.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use rustix::io::Errno;
use tokio::{
    sync::{Mutex, MutexGuard, Notify, oneshot, watch},
    time::timeout,
};

use super::{
    super::super::process::{ExitedEarly, GateError},
    Launch, Shared,
    output::Output,
};
use crate::{
    error::BoxError,
    net::{
        process::{Child, Command, ExitStatus, Spawned, StopSignal},
        seqpacket::{self, SeqPacket},
    },
    proto::gate::{Fault, Reply, fork, reap},
};

/// Maximum size of a reply in bytes. A longer message is truncated.
const MAX_REPLY: usize = 4096;

/// Minimum time for a worker to be reaped: 1 s, in which the process forks several others. A stop timeout of 0 is for workers.
const MIN_REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// The handle of the process. Dropping the last reference stops the process.
///
/// The workers are children of the process, so it reaps them and reports their status. If it ends before its
/// workers, they continue, and their status is unknown.
pub(super) struct Zygote {
    control: SeqPacket,
    /// Whether the application is loaded. Locked during a command, since there is one at a time.
    is_ready: Mutex<bool>,
    /// Maximum time for a worker to be reaped.
    reap_timeout: Duration,
    ended: watch::Receiver<Option<ExitedEarly>>,
    is_discarded: AtomicBool,
    discarded: Arc<Notify>,
}

/// What the task that observes such a process needs.
pub(super) struct Observer {
    /// Closed when the last reference to the handle is dropped.
    pub(super) ended: watch::Sender<Option<ExitedEarly>>,
    pub(super) discarded: Arc<Notify>,
}

/// Counts a task that observes such a process, until it is dropped.
pub(super) struct Observing(Arc<Shared>);

impl Observing {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.observers.send_modify(|count| *count += 1);
        Self(shared)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        self.0.observers.send_modify(|count| *count -= 1);
    }
}

impl Zygote {
    /// Starts the process in the current runtime. The calling thread must outlive the process, because of
    /// `PR_SET_PDEATHSIG`.
    ///
    /// # Errors
    /// Those of fork(2), execve(2) and socketpair(2).
    pub(super) fn start(
        command: &Command,
        program: &str,
        shared: Arc<Shared>,
    ) -> io::Result<Arc<Self>> {
        let (ours, theirs) = seqpacket::pair()?;
        let control = SeqPacket::new(ours)?;
        control.try_send(program.as_bytes(), &[])?;
        let mut spawned = command.spawn(Some(&theirs))?;
        shared.guard(&mut spawned);
        let (sender, ended) = watch::channel(None);
        let discarded = Arc::new(Notify::new());
        let reap_timeout = reap_timeout(&shared.launch);
        let observing = Observing::new(shared);
        tokio::spawn(observe(spawned, sender, discarded.clone(), observing));
        Ok(Arc::new(Self::new((control, false), reap_timeout, ended, discarded)))
    }

    fn new(
        (control, is_ready): (SeqPacket, bool),
        reap_timeout: Duration,
        ended: watch::Receiver<Option<ExitedEarly>>,
        discarded: Arc<Notify>,
    ) -> Self {
        let (is_ready, is_discarded) = (Mutex::new(is_ready), AtomicBool::new(false));
        Self { control, is_ready, reap_timeout, ended, is_discarded, discarded }
    }

    /// Creates the handle of a worker that has become such a process. The task that observes it needs the [`Observer`].
    pub(super) fn adopt(control: SeqPacket, shared: &Shared) -> (Arc<Self>, Observer) {
        let (sender, ended) = watch::channel(None);
        let discarded = Arc::new(Notify::new());
        let observer = Observer { ended: sender, discarded: discarded.clone() };
        let reap_timeout = reap_timeout(&shared.launch);
        (Arc::new(Self::new((control, true), reap_timeout, ended, discarded)), observer)
    }

    /// Returns whether the process has ended or will be stopped, so that it forks no more workers.
    pub(super) fn has_ended(&self) -> bool {
        self.is_discarded.load(Ordering::Relaxed)
            || self.ended.borrow().is_some()
            || self.ended.has_changed().is_err()
    }

    /// Stops the process.
    pub(super) fn discard(&self) {
        self.is_discarded.store(true, Ordering::Relaxed);
        self.control.close(); // without which it ignores SIGTERM
        self.discarded.notify_one();
    }

    /// Forks a worker that inherits `socket`. If the future is dropped after the command was sent, the fork is completed,
    /// and the worker killed and reaped.
    ///
    /// # Errors
    /// [`ExitedEarly`] if the process has ended, or the error of its fork. If this process has no descriptor for the
    /// worker, the process is stopped, and another one must be started.
    pub(super) async fn fork(self: &Arc<Self>, socket: OwnedFd) -> Result<Spawned, BoxError> {
        let (mut sender, receiver) = oneshot::channel();
        let zygote = self.clone();
        tokio::spawn(async move {
            let turn = tokio::select! {
                biased;
                // Otherwise the process would not end until it has loaded the application.
                () = sender.closed() => return,
                turn = zygote.turn() => turn,
            };
            let forked = match turn {
                Ok(_turn) => zygote.fork_now(socket).await,
                Err(error) => Err(error),
            };
            if let Err(Ok(unwanted)) = sender.send(forked) {
                let pid = unwanted.pid().unwrap_or_default();
                drop(unwanted); // which kills it
                zygote.reap(pid).await;
            }
        });
        receiver.await.unwrap_or_else(|_| Err("the pool has ended".into()))
    }

    /// Waits until the process has loaded the application and executes no other command.
    async fn turn(&self) -> Result<MutexGuard<'_, bool>, BoxError> {
        let mut is_ready = self.is_ready.lock().await;
        if !*is_ready {
            match self.receive().await? {
                (Reply::Ready, None) => *is_ready = true,
                _ => return Err(GateError::from(Fault::Unsolicited).into()),
            }
        }
        Ok(is_ready)
    }

    async fn fork_now(&self, socket: OwnedFd) -> Result<Spawned, BoxError> {
        let (stdout, their_stdout) = io::pipe()?;
        let (stderr, their_stderr) = io::pipe()?;
        let fds = [socket.as_fd(), their_stdout.as_fd(), their_stderr.as_fd()];
        let sent = self.control.send(&fork(), &fds).await;
        // The reply has a pidfd, and these may occupy the last descriptors. Without it the worker could not be reaped.
        drop((socket, their_stdout, their_stderr));
        sent?;
        let adopted = match self.receive().await? {
            (Reply::Forked, Some(pidfd)) => Spawned::adopt(pidfd, [stdout.into(), stderr.into()]),
            (Reply::Forked, None) => Err(Errno::MFILE.into()), // the kernel has dropped it
            (Reply::NotForked { message }, _) => return Err(message.into()),
            _ => return Err(GateError::from(Fault::Unsolicited).into()),
        };
        match adopted {
            Ok(spawned) => Ok(spawned),
            Err(error) => {
                self.end_with_unknown_worker().await;
                Err(format!("cannot observe a forked worker: {error}").into())
            }
        }
    }

    /// Stops the process, which has forked a worker of unknown id, and waits for its end. The worker exits when its socket
    /// is closed, and only its parent could reap it, or init(8) after the end of its parent.
    async fn end_with_unknown_worker(&self) {
        tracing::warn!(
            "the process that forks workers is stopped, since the id of a worker is unknown"
        );
        self.discard();
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(Option::is_some).await; // an error: its runtime ends
    }

    /// Reaps a worker that has ended. The status is unknown if this process has ended too, or does not answer within the
    /// stop timeout, or 1 s if that is shorter. Then it is stopped, and another one must be started.
    pub(super) async fn reap(&self, pid: u32) -> ExitStatus {
        let within = self.reap_timeout;
        match timeout(within, self.reap_now(pid)).await {
            Ok(status) => status,
            Err(_) => {
                let message = "the process that forks workers has not reaped one and is stopped";
                tracing::warn!(pid, ?within, "{message}");
                self.discard();
                ExitStatus::Unknown
            }
        }
    }

    async fn reap_now(&self, pid: u32) -> ExitStatus {
        let _turn = self.is_ready.lock().await;
        if self.control.send(&reap(pid), &[]).await.is_err() {
            // It closes its socket before its children get another parent.
            let mut ended = self.ended.clone();
            let _ = ended.wait_for(Option::is_some).await; // an error: its runtime ends
            return ExitStatus::Unknown;
        }
        match self.receive().await {
            Ok((Reply::Reaped { is_signal: true, number }, _)) => ExitStatus::Signal(number as i32),
            Ok((Reply::Reaped { is_signal: false, number }, _)) => ExitStatus::Code(number as i32),
            _ => ExitStatus::Unknown,
        }
    }

    /// Receives the next reply.
    async fn receive(&self) -> Result<(Reply, Option<OwnedFd>), BoxError> {
        match receive(&self.control).await {
            Ok(Some(reply)) => Ok(reply),
            Err(error) => Err(error.into()),
            Ok(None) => {
                let mut ended = self.ended.clone();
                let why = ended.wait_for(Option::is_some).await;
                Err(why
                    .ok()
                    .and_then(|why| why.clone())
                    .map_or_else(|| GateError::Closed.into(), Into::into))
            }
        }
    }
}

pub(super) fn reap_timeout(launch: &Launch) -> Duration {
    launch.stop_timeout.max(MIN_REAP_TIMEOUT)
}

/// Receives a reply of a process that forks workers; `None` if its socket is closed or broken. Its descriptor is `None`
/// also if the kernel has dropped it, since this process can open no more.
pub(super) async fn receive(
    control: &SeqPacket,
) -> Result<Option<(Reply, Option<OwnedFd>)>, GateError> {
    let mut buffer = [0; MAX_REPLY];
    let received = poll_fn(|cx| {
        let received = ready!(control.poll_recv(cx, &mut buffer));
        Poll::Ready(received)
    });
    let received = match received.await {
        Ok(received) if received.len > 0 => received,
        _ => return Ok(None),
    };
    let reply = Reply::decode(Bytes::copy_from_slice(&buffer[..received.len]))?;
    if reply.has_descriptor() != received.has_descriptor() {
        return Err(Fault::Descriptor.into());
    }
    Ok(Some((reply, received.descriptor)))
}

/// Waits for the end of the process; stops it when it is discarded or its last reference is dropped.
async fn observe(
    mut spawned: Spawned,
    ended: watch::Sender<Option<ExitedEarly>>,
    discarded: Arc<Notify>,
    observing: Observing,
) {
    let shared = observing.shared();
    let pid = spawned.pid().unwrap_or_default();
    let output = spawned.output.take().map(|pipes| Output::start(None, pid, pipes));
    let status = match spawned.observe() {
        Ok(child) => {
            tokio::select! {
                () = child.ended() => {}
                () = ended.closed() => end(&child, shared).await,
                () = discarded.notified() => end(&child, shared).await,
            }
            child.reap().await
        }
        Err(error) => {
            tracing::error!(%error, "cannot observe the process that forks workers");
            ExitStatus::Unknown
        }
    };
    let last_line = match output {
        Some(output) => output.end().await,
        None => String::new(),
    };
    let _ = ended.send(Some(ExitedEarly { status, last_line }));
}

/// Sends SIGTERM to the process, and kills its group after the stop timeout.
pub(super) async fn end(child: &Child, shared: &Shared) {
    child.terminate(StopSignal::Term);
    if timeout(shared.launch.stop_timeout, child.ended()).await.is_err() {
        child.kill_group();
    }
}
