//! Threads with a single-threaded runtime and an accept loop each.

use std::{future::Future, io};

use tokio::sync::{mpsc, watch};

use super::accept_loop::AcceptLoop;
use crate::{HttpService, net::Listener};

/// Runs one thread per listener until `stop`, which drains them. When this future is dropped they end at once.
pub(super) async fn run<S>(
    listeners: Vec<Listener>,
    accept_loop: AcceptLoop<S>,
    stop: impl Future<Output = ()>,
) -> io::Result<()>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // When `true` is sent the threads drain; when the sender is dropped they end at once.
    let (stop_tx, stop_rx) = watch::channel(false);
    let (result_tx, mut results) = mpsc::channel(listeners.len());
    for (n, listener) in listeners.into_iter().enumerate() {
        let (accept_loop, stop, result_tx) =
            (accept_loop.clone(), stop_rx.clone(), result_tx.clone());
        std::thread::Builder::new().name(format!("front-{n}")).spawn(move || {
            let result = run_thread(n, listener, accept_loop, stop);
            // The receiver is gone if the server's future was dropped.
            let _ = result_tx.blocking_send(result);
        })?;
    }
    drop((result_tx, stop_rx));
    tokio::select! {
        () = stop => {}
        // Before `stop` a thread ends only by an error, or by a panic, which sends no result.
        first = results.recv() => {
            first.unwrap_or_else(|| Err(io::Error::other("every thread of the server panicked")))?;
        }
    }
    stop_tx.send_replace(true);
    while let Some(result) = results.recv().await {
        result?;
    }
    Ok(())
}

fn run_thread<S>(
    n: usize,
    listener: Listener,
    accept_loop: AcceptLoop<S>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut abort = stop.clone();
    runtime.block_on(async {
        let stop = async move {
            if stop.wait_for(|&stop| stop).await.is_err() {
                std::future::pending::<()>().await; // `abort` ends it
            }
        };
        tokio::select! {
            result = accept_loop.run(n, listener, stop) => result,
            () = async { while abort.changed().await.is_ok() {} } => Ok(()),
        }
    })
}
