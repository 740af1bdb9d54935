//! Threads with a single-threaded runtime and an accept loop each.

use std::{future::Future, io};

use tokio::sync::{mpsc, watch};

use super::front::Front;
use crate::{HttpService, net::Listener};

/// Runs one thread per listener until `stop`, which drains them. When this future is dropped they end at once.
pub(super) async fn run<S>(
    listeners: Vec<Listener>,
    front: Front<S>,
    stop: impl Future<Output = ()>,
) -> io::Result<()>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // When `true` is sent the threads drain; when the sender is dropped they end at once.
    let (tell, told) = watch::channel(false);
    let (ended, mut all_ended) = mpsc::channel(listeners.len());
    for (n, listener) in listeners.into_iter().enumerate() {
        let (front, told, ended) = (front.clone(), told.clone(), ended.clone());
        std::thread::Builder::new().name(format!("front-{n}")).spawn(move || {
            let result = thread(n, listener, front, told);
            // The receiver is gone if the server's future was dropped.
            let _ = ended.blocking_send(result);
        })?;
    }
    drop((ended, told));
    tokio::select! {
        () = stop => {}
        // Before `stop` a thread ends only by an error, or by a panic, which sends no result.
        first = all_ended.recv() => {
            first.unwrap_or_else(|| Err(io::Error::other("every thread of the server panicked")))?;
        }
    }
    tell.send_replace(true);
    while let Some(result) = all_ended.recv().await {
        result?;
    }
    Ok(())
}

fn thread<S>(
    n: usize,
    listener: Listener,
    front: Front<S>,
    told: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut gone = told.clone();
    let mut stop = told;
    runtime.block_on(async {
        let stop = async move {
            if stop.wait_for(|&stop| stop).await.is_err() {
                std::future::pending::<()>().await; // `gone` ends it
            }
        };
        tokio::select! {
            result = front.run(n, listener, stop) => result,
            () = async { while gone.changed().await.is_ok() {} } => Ok(()),
        }
    })
}
