//! `connect_patiently`: connects to a worker whose accept queue may be full.

use std::{io, time::Duration};

use tokio::time::{Instant, sleep};

/// Pauses between attempts: from 1 ms, in which a worker accepts many connections, to 50 ms.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// Connects, and tries again for up to `within` while the accept queue of the Unix socket is full: connect(2) returns
/// `EAGAIN` then instead of waiting.
///
/// # Errors
/// Those of `connect`: [`io::ErrorKind::WouldBlock`] if the queue remains full.
pub(in crate::worker) async fn connect_patiently<T, F>(
    connect: impl Fn() -> F,
    within: Duration,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match connect().await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && began.elapsed() < within => {
                sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{os::fd::OwnedFd, os::unix::net::UnixListener, path::Path};

    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
    };
    use tokio::net::UnixStream;

    use super::*;

    /// Returns a listener whose accept queue is full, and the connections in it.
    pub(in super::super) async fn with_full_queue(path: &Path) -> (OwnedFd, Vec<UnixStream>) {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let listener = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&listener, 0).unwrap();
        let mut queued = Vec::new();
        let error = loop {
            match UnixStream::connect(path).await {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        (listener, queued)
    }

    #[tokio::test]
    async fn connect_waits_while_the_accept_queue_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (listener, queued) = with_full_queue(&path).await;
        let connect = || UnixStream::connect(&path);
        let error = connect_patiently(connect, Duration::from_millis(5)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "the bound");
        let waits = tokio::spawn({
            let path = path.clone();
            async move { connect_patiently(|| UnixStream::connect(&path), Duration::MAX).await }
        });
        tokio::task::yield_now().await;
        let listener = UnixListener::from(listener);
        let accepted = listener.accept().unwrap();
        waits.await.unwrap().unwrap();
        drop((accepted, queued));
    }
}
