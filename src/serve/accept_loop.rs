//! The accept loop of one runtime, and its end.

use std::{
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    HttpService,
    conn::{Config, Connection, Transport},
    error::panic_message,
    net::{Accepted, Acceptor, Drain, Listener, Stream},
};

use super::{
    admission::{Admission, Admitted, Shedding},
    per_client::ClientConnection,
};

/// An accept loop of a server.
#[derive(Clone)]
pub(super) struct AcceptLoop<S> {
    pub(super) service: S,
    pub(super) config: Arc<Config>,
    pub(super) admission: Arc<Admission>,
    pub(super) shutdown_timeout: Duration,
    /// Other drains that a shutdown waits for.
    pub(super) others: Arc<[Drain]>,
}

impl<S> AcceptLoop<S>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    /// Runs loop number `n` of the server: accepts and serves until `stop`, then drains. Dropping the future
    /// aborts its connections.
    pub(super) async fn run(
        self,
        n: usize,
        listener: Listener,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut acceptor = Acceptor::new(listener)?;
        let connections = Connections(self.admission.drain(n).clone());
        let mut stop = std::pin::pin!(stop);
        let mut shedding = Shedding::default();
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                admitted = self.admission.next(&mut acceptor, &mut shedding) => {
                    tokio::spawn(self.task(admitted, &connections.0));
                }
            }
        }
        drop(acceptor); // closes the listener: from here on the kernel refuses connections
        let Connections(drain) = &connections;
        // The connections first: work that they detach from its client is registered in the others.
        for drain in std::iter::once(drain).chain(&*self.others) {
            drain.begin();
        }
        let ended = async {
            drain.ended().await;
            for other in &*self.others {
                other.ended().await;
            }
        };
        if tokio::time::timeout(self.shutdown_timeout, ended).await.is_err() {
            tracing::warn!(connections = drain.len(), "drain deadline passed: all is cut");
            for drain in std::iter::once(drain).chain(&*self.others) {
                drain.abort();
                drain.ended().await;
            }
        }
        Ok(())
    }

    fn task(&self, admitted: Admitted, drain: &Drain) -> Task<Connection<Stream, S>> {
        let Admitted { accepted: Accepted { stream, peer }, counted } = admitted;
        let transport = Transport::new(stream, peer, drain.watch());
        let connection = Connection::new(transport, self.service.clone(), self.config.clone());
        Task { connection, _counted: counted }
    }
}

/// The connections of an accept loop, which are aborted with it.
struct Connections(Drain);

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The future of a connection's task. It is written by hand, since an `async` block would store the connection
/// twice: as its capture and as the future that it awaits.
struct Task<C> {
    connection: C,
    _counted: Option<Box<ClientConnection>>,
}

impl<C: Future<Output = io::Result<()>> + Unpin> Future for Task<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let connection = Pin::new(&mut self.connection);
        // The driver catches panics of the service. Any other, for example of a destructor, ends only this
        // connection.
        match catch_unwind(AssertUnwindSafe(|| connection.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => {}
            Ok(Poll::Ready(Err(error))) => tracing::debug!(%error, "connection"),
            Err(panic) => {
                let panic = panic_message(&*panic);
                tracing::error!(panic, "a connection's task panicked");
            }
        }
        Poll::Ready(())
    }
}
