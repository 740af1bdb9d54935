//! The accept loop of one runtime, and its end.

use std::{future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tower_service::Service;

use crate::{
    body::Body,
    conn::h1::server,
    error::BoxError,
    net::{Accepted, Acceptor, Drain, Listener},
};

/// What all accept loops of a server share.
#[derive(Clone)]
pub(super) struct Front<S> {
    pub(super) service: S,
    pub(super) http1: Arc<server::Config>,
    /// One for each connection.
    pub(super) permits: Arc<Semaphore>,
    pub(super) drain: Duration,
}

impl<S, B> Front<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Accepts and serves until `stop`, then drains. Dropped, it ends all its connections.
    pub(super) async fn run(
        self,
        listener: Listener,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut acceptor = Acceptor::new(listener)?;
        let mut connections = JoinSet::new();
        let drain = Drain::new();
        let mut stop = std::pin::pin!(stop);
        // Accepted first, then allowed: a thread that waits for a connection must not hold a
        // place that another one's client waits for.
        let mut waiting = None;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    report(ended);
                }
                accepted = acceptor.accept(), if waiting.is_none() => waiting = Some(accepted),
                permit = self.permits.clone().acquire_owned(), if waiting.is_some() => {
                    let permit = permit.expect("the semaphore is never closed");
                    if let Some(accepted) = waiting.take() {
                        connections.spawn(self.connection(accepted, permit, &drain));
                    }
                }
            }
        }
        drop(acceptor); // the kernel refuses from here on
        drain.begin();
        let all_ended = async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        };
        if tokio::time::timeout(self.drain, all_ended).await.is_err() {
            tracing::warn!(connections = drain.len(), "drain deadline passed: connections are cut");
            connections.shutdown().await;
        }
        Ok(())
    }

    fn connection(
        &self,
        accepted: Accepted,
        permit: OwnedSemaphorePermit,
        drain: &Drain,
    ) -> impl Future<Output = ()> + Send + 'static {
        let Accepted { stream, peer } = accepted;
        let connection = server::Connection::new(
            stream,
            peer,
            self.service.clone(),
            self.http1.clone(),
            drain.watch(),
        );
        async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
            drop(permit);
        }
    }
}

/// A panic of a service ends its connection only; it is reported here.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}
