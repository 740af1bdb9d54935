//! `SocketUser`: sends requests to workers that do not get them from the pool.

use std::{fmt, future::Future, io, path::Path, pin::Pin, time::Duration};

use tokio::net::UnixStream;

/// Pauses between attempts to connect, as those of readiness checks.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// Connects to the sockets of workers.
pub trait SocketUser: Send + Sync {
    /// Switches to the worker that accepts connections on `socket`. No other worker has the same path.
    ///
    /// # Errors
    /// The worker cannot be used yet. The call is repeated after a pause.
    fn open(&self, socket: &Path) -> io::Result<()>;

    /// Stops using the worker with this socket, which has ended or will be stopped. The future resolves when no
    /// request uses it.
    fn retire(&self, socket: &Path) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

impl fmt::Debug for dyn SocketUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SocketUser")
    }
}

/// Waits until a worker accepts connections and `user` uses it. `problem` is the last error.
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
