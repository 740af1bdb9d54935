//! Workers that are given no requests by the pool: others connect to their sockets.

use std::{fmt, future::Future, io, path::Path, pin::Pin, time::Duration};

use tokio::net::UnixStream;

/// Pauses between attempts to connect, as those of ready checks.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// Connects to the sockets of workers.
pub trait SocketUser: Send + Sync {
    /// A worker listens at `socket`, in place of all before it. Each has a path of its own.
    ///
    /// # Errors
    /// It cannot be used yet; it is tried again.
    fn open(&self, socket: &Path) -> io::Result<()>;

    /// The worker with this socket is to be ended, or has ended. The future resolves when it is not in use any
    /// more.
    fn retire(&self, socket: &Path) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

impl fmt::Debug for dyn SocketUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SocketUser")
    }
}

/// Waits until a worker listens and is used. `problem` has why not.
pub(super) async fn wait_open(user: &dyn SocketUser, socket: &Path, problem: &mut String) {
    let mut pause = FIRST_PAUSE;
    loop {
        let opened = UnixStream::connect(socket).await.and_then(|_| user.open(socket));
        let Err(error) = opened else { return };
        *problem = format!("it does not listen: {error}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
