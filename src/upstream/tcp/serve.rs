//! The accept loop of a [`TcpBalance`].

use std::{future::poll_fn, io};

use super::{TcpBalance, TcpError, Transferred};
use crate::{
    error::Chain,
    net::{Accepted, Acceptor, Drain, DrainWatch, Listener, raise_open_files},
    peer::Peer,
};

/// Open files of a connection, 6: two sockets, and a pipe with two for each direction.
const CONNECTION_FILES: usize = 6;

impl TcpBalance {
    /// Accepts connections in the current runtime and forwards each in its own task until `drain` begins. Then the
    /// listener is closed and the connections continue: [`Drain::ended`] waits for them, and [`Drain::abort`] aborts
    /// them.
    ///
    /// Raises the soft limit of open files of this process (`RLIMIT_NOFILE`), as far as its hard limit permits, to six for
    /// each connection and 1,024 others.
    ///
    /// The end of each connection, and each one that was not forwarded, is logged as a `DEBUG` or `WARN` event with
    /// the target `vestibule::tcp`.
    ///
    /// # Errors
    /// Those of registering the listener.
    pub async fn serve(&self, listener: Listener, drain: &Drain) -> io::Result<()> {
        raise_open_files(self.0.max_connections.saturating_mul(CONNECTION_FILES));
        let mut acceptor = Acceptor::new(listener)?;
        let mut watch = drain.watch();
        loop {
            let accepted = tokio::select! {
                biased;
                () = begun(&mut watch) => return Ok(()),
                accepted = acceptor.accept() => accepted,
            };
            let Accepted { stream, peer } = accepted;
            let (balance, watch) = (self.clone(), drain.watch());
            tokio::spawn(async move {
                let result = balance.forward(stream, &peer, b"", watch).await;
                log(&peer, &result);
            });
        }
    }
}

/// Waits until the drain has started.
async fn begun(watch: &mut DrainWatch) {
    poll_fn(|cx| {
        if watch.poll_draining(cx) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

fn log(client: &Peer, result: &Result<Transferred, TcpError>) {
    match result {
        Ok(Transferred { sent, received, end }) => {
            tracing::debug!(target: "vestibule::tcp", %client, sent, received, ?end, "connection ended");
        }
        Err(error) => {
            let error = Chain(error);
            tracing::warn!(target: "vestibule::tcp", %client, %error, "connection not forwarded");
        }
    }
}
