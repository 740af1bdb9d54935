//! Refork: a worker that has answered requests becomes the mould, the process that forks the workers of its generation.
//!
//! ```text
//!   zygote ----forks----> workers        one of them has completed enough requests (`policy::restart`)
//!     |                      |           its successor, forked by the zygote, is ready: it has left its slot
//!     |                      v
//!     |<---- reaps ------- mould         `refork` in its idle socket: it has no request, and gets no other
//!     |                      |           it closes connections, checks that it may be copied, and sends `Ready`
//!     |                      v
//!     +   a new zygote    workers        replace the workers of the zygote, which leave when these are ready
//! ```
//!
//! The process itself changes its role, so nothing is forked for that, and its parent continues to reap it. No request
//! depends on it: it has left its slot, and if it refuses, ends or takes too long, it is stopped like any worker that was
//! replaced. The zygote remains the parent of the mould. If the mould ends, its workers continue, as those of a zygote do,
//! and the next ones are forked by the zygote at once, until another worker is chosen. If one of its copies does not become
//! ready, it is stopped, and none is chosen before the next reload. A reload starts a zygote of the new
//! generation; the mould ends with the last of its workers.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    super::super::process::ExitedEarly,
    lane::Lane,
    lane_group::LaneGroup,
    link::Link,
    worker_task::call_hook,
    zygote::{Observer, Observing, Zygote, end, receive},
};
use crate::{
    error::BoxError,
    net::{
        process::Child,
        seqpacket::{self, SeqPacket},
    },
    policy::restart::WorkerId,
    proto::gate::Reply,
};

/// Minimum time for a worker to prepare: 10 s, in which its hook is called and its garbage is collected. It has left its
/// slot, so no request waits for it. A stop timeout of 0 is for workers.
const MIN_PREPARE_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason why a worker does not become the mould.
enum Unprepared {
    /// It has state that must not be copied: threads, or open connections.
    Refused(String),
    Failed(BoxError),
}

/// Makes a worker that has left its slot the mould, if the supervisor has chosen it. Returns `false` if its process must
/// be stopped.
pub(super) async fn become_mould(lane: &Lane, child: &Child) -> bool {
    let Lane { id, shared, group, link } = lane;
    // An abandoned worker still has its request.
    if !link.is_idle() || !shared.pool.claim_mould(*id) {
        return false;
    }
    let within = shared.launch.stop_timeout.max(MIN_PREPARE_TIMEOUT);
    let prepared = tokio::select! {
        // In this order: a worker that refuses says why, and ends.
        biased;
        prepared = timeout(within, prepare(link)) => prepared.unwrap_or_else(|_| {
            let message = format!("it was not ready within {within:?}");
            Err(Unprepared::Failed(message.into()))
        }),
        () = child.ended() => Err(Unprepared::Failed("it has ended".into())),
    };
    let pid = child.pid();
    let control = match prepared {
        Ok(control) => control,
        Err(Unprepared::Refused(reason)) => {
            shared.pool.on_mould_refused(*id);
            tracing::warn!(worker = %id, pid, reason, "workers are not forked again before the next reload");
            return false;
        }
        Err(Unprepared::Failed(error)) => {
            tracing::warn!(worker = %id, pid, %error, "a worker could not become the process that forks others");
            return false;
        }
    };
    let (mould, observer) = Zygote::adopt(control, shared);
    // Before the other workers are replaced, so that all that start from then on are forked by it.
    if !shared.mould.set(id.generation(), mould) || !shared.pool.on_mould_ready(*id) {
        shared.mould.remove(id.generation());
        return false;
    }
    tracing::info!(worker = %id, pid, "a worker has become the process that forks others");
    link.close();
    group.leave();
    tokio::spawn(observe(*id, Observing::new(shared.clone()), group.clone(), observer));
    true
}

/// Stops the mould if the worker, which was not ready, was forked by it, so that the next ones are forked by the zygote.
pub(super) fn give_up(lane: &Lane, parent: Option<&Zygote>) {
    let Lane { id, shared, .. } = lane;
    let Some(mould) = shared.mould(id.generation()) else { return };
    if parent.is_some_and(|parent| std::ptr::eq(parent, &*mould))
        && shared.pool.on_copy_failed(id.generation())
    {
        let message =
            "a worker that was forked again did not become ready: none is before the next reload";
        tracing::warn!(worker = %id, "{message}");
        shared.mould.remove(id.generation());
        mould.discard();
    }
}

/// Makes the worker change its role. Returns the socket for commands.
async fn prepare(link: &Link) -> Result<SeqPacket, Unprepared> {
    let send = || {
        let (ours, theirs) = seqpacket::pair()?;
        let control = SeqPacket::new(ours)?;
        link.refork(theirs.as_fd())?;
        Ok::<_, io::Error>(control)
    };
    let control = send().map_err(|error| Unprepared::Failed(error.into()))?;
    match receive(&control).await {
        Ok(Some((Reply::Ready, None))) => Ok(control),
        Ok(Some((Reply::NotForked { message }, None))) => Err(Unprepared::Refused(message)),
        Ok(Some(_)) => Err(Unprepared::Failed("it has violated its protocol".into())),
        Ok(None) => Err(Unprepared::Failed("it has closed its socket".into())),
        Err(error) => Err(Unprepared::Failed(error.into())),
    }
}

/// Waits for the end of the mould; stops it when it is discarded or the last reference to it is dropped.
async fn observe(id: WorkerId, observing: Observing, group: Arc<LaneGroup>, observer: Observer) {
    let shared = observing.shared();
    let Some(process) = group.started() else { return };
    let pid = process.child.pid();
    tokio::select! {
        () = process.child.ended() => {
            tracing::warn!(worker = %id, pid, "the process that forks workers has ended");
        }
        () = observer.ended.closed() => end(&process.child, shared).await,
        () = observer.discarded.notified() => end(&process.child, shared).await,
    }
    let (status, last_line) = process.reap().await;
    tracing::debug!(worker = %id, pid, %status, "a worker process has ended");
    let _ = observer.ended.send(Some(ExitedEarly { status, last_line }));
    shared.pool.on_mould_end(id);
    let on_exit = shared.launch.hooks.on_exit.as_deref();
    call_hook("on_exit", on_exit, (process.facts, status));
}
