//! `shutdown_signal`: the signals that shut a server down.

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::net::clock;

/// Signals within this time after the first one do not end the process.
const REPETITION: Duration = Duration::from_millis(250);

/// Completes at the first SIGINT (Ctrl-C) or SIGTERM. Usually passed to
/// [`Serve::shutdown`](super::Serve::shutdown).
///
/// After its first poll, these signals no longer end the process by default. A second signal ends the process at
/// once, without running destructors, with the exit status that a shell reports (130 or 143). A signal within 250 ms of the
/// first one is the same request to stop: programs such as timeout(1) without `--foreground` and npm signal the process, and also
/// its group. No other item of this crate handles signals.
///
/// If the handlers cannot be installed this logs an error and never completes.
///
/// ```no_run
/// use vestibule::{Router, serve};
///
/// # async fn run() -> std::io::Result<()> {
/// serve("127.0.0.1:8080", Router::new()).shutdown(serve::shutdown_signal()).await
/// # }
/// ```
pub async fn shutdown_signal() {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot install signal handlers: SIGINT and SIGTERM end the process without a shutdown");
            return std::future::pending().await;
        }
    };
    poll_fn(|cx| signals.poll_next(cx)).await;
    tracing::info!("shutting down; a second signal ends the process at once");
    let first = clock::now();
    tokio::spawn(async move {
        let status = second(first, |cx| signals.poll_next(cx)).await;
        tracing::warn!(status, "a second signal ended the shutdown");
        std::process::exit(status);
    });
}

/// Waits for the signal that ends the process, after that at `first`. `poll_next` polls for any signal.
async fn second(first: Instant, mut poll_next: impl FnMut(&mut Context<'_>) -> Poll<i32>) -> i32 {
    loop {
        let status = poll_fn(&mut poll_next).await;
        if clock::now().duration_since(first) >= REPETITION {
            return status;
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Polls for the next signal. Returns the exit status of a shell for it: 128 plus its number.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<i32> {
        let Self { interrupt, terminate } = self;
        for (signal, kind) in
            [(interrupt, SignalKind::interrupt()), (terminate, SignalKind::terminate())]
        {
            if signal.poll_recv(cx).is_ready() {
                return Poll::Ready(128 + kind.as_raw_value());
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::mpsc, time::advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn signal_that_repeats_the_first_one_is_not_the_second() {
        let (sender, mut signals) = mpsc::unbounded_channel();
        let first = clock::now();
        let second = tokio::spawn(async move {
            second(first, |cx| {
                signals.poll_recv(cx).map(|signal| signal.expect("the sender is open"))
            })
            .await
        });
        for (signal, elapsed) in [(1, 0), (2, 249)] {
            tokio::task::yield_now().await;
            advance(Duration::from_millis(elapsed)).await;
            sender.send(signal).unwrap();
        }
        tokio::task::yield_now().await;
        advance(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
        sender.send(3).unwrap();
        assert_eq!(second.await.unwrap(), 3);
    }
}
