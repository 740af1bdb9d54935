//! `AcceptLoop`: accepts and serves the connections of one runtime, and drains them.

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
    net::{Accepted, Acceptor, Drain, Listener, Stream, serving::Serving},
};

use super::admission::{Admission, Admitted, Shedding};

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
        let _serving = Serving::new();
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
        // The connections first: they register the work that they detach with the other drains.
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
            let connections = drain.len();
            tracing::warn!(connections, "shutdown_timeout passed: aborting what has not ended");
            for drain in std::iter::once(drain).chain(&*self.others) {
                drain.abort();
                drain.ended().await;
            }
        }
        Ok(())
    }

    fn task(&self, admitted: Admitted, drain: &Drain) -> Task<S> {
        let Admitted { accepted: Accepted { stream, peer }, counted } = admitted;
        let transport = Transport::new(stream, peer, drain.watch());
        let connection = Connection::new(transport, self.service.clone(), self.config.clone());
        Task { connection: connection.counted(counted) }
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
struct Task<S> {
    connection: Connection<Stream, S>,
}

impl<S> Future for Task<S>
where
    S: HttpService,
    S::Future: Send + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let connection = Pin::new(&mut self.connection);
        // The driver catches panics of the service. Any other, for example of a future that it drops, ends only this
        // connection.
        match catch_unwind(AssertUnwindSafe(|| connection.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => {}
            Ok(Poll::Ready(Err(error))) => {
                let client = self.connection.peer();
                tracing::debug!(%client, %error, "connection failed");
            }
            Err(panic) => {
                let (client, panic) = (self.connection.peer(), panic_message(&*panic));
                tracing::error!(%client, panic, "connection task panicked; the connection is closed");
            }
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };
    use tower::service_fn;
    use tracing::instrument::WithSubscriber;

    use super::*;
    use crate::{Request, Response, conn::testing::Lines, peer::Peer};

    /// A part of the service's future, whose destructor panics.
    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    /// Returns the log lines of the task of a connection whose client sends `bytes` and then resets it.
    async fn lines_of_task(bytes: &str) -> String {
        let service = service_fn(|_: Request| async {
            let _dropped_with_the_connection = PanicsOnDrop;
            std::future::pending::<Result<Response, Infallible>>().await
        });
        let accept_loop = AcceptLoop {
            service,
            config: Arc::default(),
            admission: Arc::new(Admission::new(1, 1, Arc::default())),
            shutdown_timeout: Duration::ZERO,
            others: Arc::new([]),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(bytes.as_bytes()).await.unwrap();
        client.set_zero_linger().unwrap();
        let peer = Peer::tcp("192.0.2.1:9".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        let accepted = Accepted { stream: stream.into(), peer };
        let drain = accept_loop.admission.drain(0).clone();
        let task = accept_loop.task(Admitted { accepted, counted: None }, &drain);
        let lines = Lines::default();
        let both = async { tokio::join!(task, async { drop(client) }) };
        both.with_subscriber(lines.subscriber()).await;
        lines.of("vestibule::serve::accept_loop").concat()
    }

    #[tokio::test]
    async fn failed_connection_is_logged_with_its_client() {
        let lines = lines_of_task("GET / HTTP/1.1\r\nHo").await;
        assert!(lines.contains("connection failed client=192.0.2.1:9 error="), "{lines}");
    }

    #[tokio::test]
    async fn panicked_connection_task_is_logged_with_its_client() {
        let lines = lines_of_task("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(lines.contains("client=192.0.2.1:9 panic=\"dropped\""), "{lines}");
    }
}
