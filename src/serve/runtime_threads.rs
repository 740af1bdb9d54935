//! One single-threaded runtime a thread, each with its own accept loop.

use std::{future::Future, io};

use tokio::sync::{mpsc, watch};

use super::front::Front;
use crate::{HttpService, net::Listener};

/// Runs one thread per listener until `stop`; when this future is dropped they end at once.
pub(super) async fn run<S>(
    listeners: Vec<Listener>,
    front: Front<S>,
    stop: impl Future<Output = ()>,
) -> io::Result<()>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Dropped without a word: the threads end at once. Told `true`: they drain.
    let (tell, told) = watch::channel(false);
    let (ended, mut all_ended) = mpsc::channel(listeners.len());
    for (n, listener) in listeners.into_iter().enumerate() {
        let (front, told, ended) = (front.clone(), told.clone(), ended.clone());
        std::thread::Builder::new().name(format!("front-{n}")).spawn(move || {
            let result = thread(n, listener, front, told);
            // Nobody waits any more if the server's future was dropped.
            let _ = ended.blocking_send(result);
        })?;
    }
    drop((ended, told));
    tokio::select! {
        () = stop => {}
        // A thread does not end by itself but with an error, or a panic, which tells nothing.
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
