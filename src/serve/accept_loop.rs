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
    net::{Accepted, Acceptor, BACKLOG, Drain, Listener, Stream, serving::Serving},
};

use super::admission::{Admission, Admitted, Shedding};

/// How long a shutdown serves clients in the accept queue, 1 s: a full server has to close connections before it can.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Queued connections that are accepted before the task yields, 32: about a millisecond.
const ACCEPTS_PER_POLL: u16 = 32;

/// An accept loop of a server.
#[derive(Clone)]
pub(super) struct AcceptLoop<S> {
    pub(super) service: S,
    pub(super) config: Arc<Config>,
    pub(super) admission: Arc<Admission>,
    pub(super) shutdown_timeout: Duration,
    /// Whether the listeners are closed with the loop. If not, another process may have them, too.
    pub(super) closes_listeners: bool,
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
        mut self,
        n: usize,
        listener: Listener,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let serving = Serving::new();
        let mut acceptor = Acceptor::new(listener)?;
        let connections = Connections(self.admission.drain(n).clone());
        let mut stop = std::pin::pin!(stop);
        let (mut shedding, mut waiting) = (Shedding::default(), None);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                admitted = self.admission.next(&mut acceptor, &mut shedding, &mut waiting) => {
                    tokio::spawn(self.task(admitted, &connections.0));
                }
            }
        }
        let (Connections(drain), shutdown_timeout) = (&connections, self.shutdown_timeout);
        let ended = async {
            let closes_listeners = self.closes_listeners;
            let accept = || if closes_listeners { acceptor.accept_now() } else { None };
            self.serve_queued(waiting, accept, drain).await;
            drop(acceptor); // closes the listener: from here on the kernel refuses connections
            self.begin_drain(drain);
            drain.ended().await;
            for other in &*self.others {
                other.ended().await;
            }
            // Tasks of this runtime may still serve connections of other runtimes, which drain them at the same time.
            serving.end().await;
        };
        if tokio::time::timeout(shutdown_timeout, ended).await.is_err() {
            let connections = drain.len();
            tracing::warn!(connections, "shutdown_timeout passed: aborting what has not ended");
            for drain in std::iter::once(drain).chain(&*self.others) {
                drain.abort();
                drain.ended().await;
            }
        }
        Ok(())
    }

    /// Serves `waiting`, and the clients in the accept queue: the kernel has connected them, and would reset them when
    /// the listener is closed. `accept` returns the next of them.
    ///
    /// `&mut`, since the service need not be `Sync`.
    async fn serve_queued(
        &mut self,
        waiting: Option<Admitted>,
        accept: impl Fn() -> Option<io::Result<Accepted>>,
        drain: &Drain,
    ) {
        let served = self.serve_full_queue(waiting, accept, drain);
        if tokio::time::timeout(QUEUE_TIMEOUT, served).await.is_err() {
            tracing::warn!("closing the accept queue before all of its clients were admitted");
        }
    }

    /// Serves `waiting`, and as many queued clients as the accept queue holds: they may connect as fast as they are
    /// accepted.
    async fn serve_full_queue(
        &mut self,
        mut waiting: Option<Admitted>,
        accept: impl Fn() -> Option<io::Result<Accepted>>,
        drain: &Drain,
    ) {
        let mut is_draining = false;
        for n in 1..=BACKLOG {
            if waiting.is_none() {
                match accept() {
                    Some(Ok(accepted)) => waiting = self.admission.count(accepted),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "cannot accept a queued connection");
                    }
                    None => return,
                }
            }
            if let Some(admitted) = waiting.take() {
                if !self.admission.try_acquire_permit() {
                    if !std::mem::replace(&mut is_draining, true) {
                        self.begin_drain(drain); // the idle connections return their permits
                    }
                    self.admission.acquire_permit_in_drain().await;
                }
                tokio::spawn(self.task(admitted, drain));
            }
            if n.is_multiple_of(ACCEPTS_PER_POLL) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Begins the drain of the loop's connections, and the others.
    fn begin_drain(&self, drain: &Drain) {
        // The connections first: they register the work that they detach with the other drains.
        for drain in std::iter::once(drain).chain(&*self.others) {
            drain.begin();
        }
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
    S: HttpService + Clone,
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
    use std::{
        cell::{Cell, RefCell},
        collections::VecDeque,
        convert::Infallible,
    };

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream, UnixStream},
    };
    use tower::service_fn;
    use tracing::instrument::WithSubscriber;

    use super::*;
    use crate::{
        Request, Response,
        conn::{per_client::PerClientConnections, testing::Lines},
        net::serving::CrossRuntimeTask,
        peer::Peer,
    };

    /// A part of the service's future, whose destructor panics.
    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    /// The limit of connections of an accept loop.
    const LIMIT: usize = 10;

    fn peer() -> Peer {
        Peer::tcp("192.0.2.1:9".parse().unwrap(), "192.0.2.2:80".parse().unwrap())
    }

    fn accept_loop<S>(service: S, limit: usize, config: Arc<Config>) -> AcceptLoop<S> {
        AcceptLoop {
            service,
            config: config.clone(),
            admission: Arc::new(Admission::new(1, limit, config)),
            shutdown_timeout: Duration::ZERO,
            closes_listeners: true,
            others: Arc::new([]),
        }
    }

    /// Returns the log lines of the task of a connection whose client sends `bytes` and then resets it.
    async fn lines_of_task(bytes: &str) -> String {
        let service = service_fn(|_: Request| async {
            let _dropped_with_the_connection = PanicsOnDrop;
            std::future::pending::<Result<Response, Infallible>>().await
        });
        let accept_loop = accept_loop(service, 1, Arc::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(bytes.as_bytes()).await.unwrap();
        client.set_zero_linger().unwrap();
        let accepted = Accepted { stream: stream.into(), peer: peer() };
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

    /// Serves an accept queue from which `accept` takes the connections.
    async fn serve_queued(
        config: Arc<Config>,
        accept: impl Fn() -> Option<io::Result<Accepted>>,
    ) -> Drain {
        let service =
            service_fn(|_: Request| std::future::pending::<Result<Response, Infallible>>());
        let mut accept_loop = accept_loop(service, LIMIT, config);
        let drain = accept_loop.admission.drain(0).clone();
        accept_loop.serve_queued(None, accept, &drain).await;
        drain
    }

    #[tokio::test(start_paused = true)]
    async fn full_server_closes_its_queue_after_a_second_in_a_shutdown() {
        let (mut clients, mut queue) = (Vec::new(), VecDeque::new());
        for _ in 0..=LIMIT {
            let (mut client, stream) = UnixStream::pair().unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            clients.push(client);
            queue.push_back(Ok(Accepted { stream: stream.into(), peer: peer() }));
        }
        let queue = RefCell::new(queue);
        let began = tokio::time::Instant::now();
        let drain = serve_queued(Arc::default(), || queue.borrow_mut().pop_front()).await;
        assert_eq!((drain.len(), began.elapsed().as_secs()), (LIMIT, 1));
    }

    #[tokio::test]
    async fn failed_accept_does_not_end_the_queue_in_a_shutdown() {
        let (_client, stream) = UnixStream::pair().unwrap();
        let connected = Accepted { stream: stream.into(), peer: peer() };
        let failed = Err(io::ErrorKind::ConnectionAborted.into());
        let queue = RefCell::new(VecDeque::from([failed, Ok(connected)]));
        let drain = serve_queued(Arc::default(), || queue.borrow_mut().pop_front()).await;
        assert_eq!((drain.len(), queue.borrow().len()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_tasks_that_serve_other_runtimes() {
        let timeout = Duration::from_secs(30);
        for leaves in [true, false] {
            let listener = Listener::from(TcpListener::bind("127.0.0.1:0").await.unwrap());
            let service =
                service_fn(|_: Request| std::future::pending::<Result<Response, Infallible>>());
            let accept_loop = accept_loop(service, LIMIT, Arc::default());
            let accept_loop = AcceptLoop { shutdown_timeout: timeout, ..accept_loop };
            let task = RefCell::new(None);
            let stop = async { *task.borrow_mut() = CrossRuntimeTask::new().await };
            let began = tokio::time::Instant::now();
            let leave = async {
                tokio::time::sleep(timeout / 2).await;
                let task = task.borrow_mut().take_if(|_| leaves);
                assert!(task.is_none_or(|task| task.must_leave()));
            };
            let (result, ()) = tokio::join!(accept_loop.run(0, listener, stop), leave);
            result.unwrap();
            let expected = if leaves { timeout / 2 } else { timeout };
            assert_eq!(began.elapsed().as_secs(), expected.as_secs());
        }
    }

    #[tokio::test]
    async fn client_that_reconnects_does_not_prolong_a_shutdown() {
        let mut config = Config::new();
        config.per_client = Some(PerClientConnections::new(1));
        let accepted = Cell::new(0);
        let accept = || {
            accepted.set(accepted.get() + 1);
            let (_client, stream) = UnixStream::pair().unwrap();
            Some(Ok(Accepted { stream: stream.into(), peer: peer() }))
        };
        let serve = async { drop(serve_queued(Arc::new(config), accept).await) };
        let other = async { accepted.get() };
        let ((), accepted_before) = tokio::join!(serve, other);
        assert_eq!(accepted.get(), BACKLOG);
        assert!(accepted_before <= ACCEPTS_PER_POLL, "no other task ran: {accepted_before}");
    }
}
