//! `shutdown_signal`: the signals that shut a server down.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Completes at the first SIGINT (Ctrl-C) or SIGTERM. Usually passed to
/// [`Serve::shutdown`](super::Serve::shutdown).
///
/// After its first poll, these signals no longer end the process by default. A second signal ends the process at
/// once, without running destructors, with the exit status that a shell reports (130 or 143). No other item of
/// this crate handles signals.
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
    signals.next().await;
    tracing::info!("shutting down; a second signal ends the process at once");
    tokio::spawn(async move {
        let status = signals.next().await;
        tracing::warn!(status, "a second signal ended the shutdown");
        std::process::exit(status);
    });
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

    /// Waits for the next signal. Returns the exit status of a shell for it: 128 plus its number.
    async fn next(&mut self) -> i32 {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        128 + kind.as_raw_value()
    }
}
