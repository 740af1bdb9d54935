//! `Connector`: connects to one server, with TLS if it is configured.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::net::{
    Address, KeepAlive, Stream, clock,
    tls::{self, MaybeTls},
};

/// Time for which a server's choice of HTTP/1.1 is remembered: 5 min.
pub(super) const CHOICE_TTL: Duration = Duration::from_secs(300);

/// A stream to a server.
pub(super) type ServerStream = MaybeTls<Stream>;

/// The address of a server, the verification of its certificate, and the options of connections.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    address: Address,
    /// An error of the configuration is returned by each attempt to connect.
    tls: Option<Result<tls::Client, String>>,
    keep_alive: KeepAlive,
    /// The choice that expires when a connection is opened.
    choice: Option<Arc<Http1Choice>>,
    /// The failure that tests inject; clones share it.
    #[cfg(test)]
    pub(super) fault: Arc<Mutex<Option<Fault>>>,
}

/// A failure that tests inject.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// The error of a system call, by its code.
    Error(i32),
    /// The attempt to connect does not end.
    Hang,
}

/// A server's choice of HTTP/1.1 by ALPN. It is forgotten after [`CHOICE_TTL`], since the server may speak HTTP/2 by then.
/// Its age is checked when a connection is opened, so that a request need not read the clock.
#[derive(Debug, Default)]
pub(super) struct Http1Choice {
    is_made: AtomicBool,
    made: Mutex<Option<Instant>>,
}

impl Http1Choice {
    /// Returns whether the server has chosen HTTP/1.1.
    pub(super) fn is_made(&self) -> bool {
        self.is_made.load(Ordering::Relaxed)
    }

    #[cfg_attr(not(feature = "h2"), allow(dead_code, reason = "for shared connections"))]
    pub(super) fn make(&self) {
        // Nothing panics while the lock is held.
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::now());
        self.is_made.store(true, Ordering::Relaxed);
    }

    fn expire(&self) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.is_some_and(|made| clock::now().saturating_duration_since(made) >= CHOICE_TTL) {
            *made = None;
            self.is_made.store(false, Ordering::Relaxed);
        }
    }
}

impl Connector {
    /// Creates a connector without TLS.
    pub(super) fn plain(address: Address, keep_alive: KeepAlive) -> Self {
        Self {
            address,
            tls: None,
            keep_alive,
            choice: None,
            #[cfg(test)]
            fault: Arc::default(),
        }
    }

    /// Creates a connector with TLS for `host`, which offers these application protocols (ALPN).
    pub(super) fn secure(
        address: Address,
        host: &str,
        client: io::Result<&tls::Client>,
        alpn: &[&[u8]],
        keep_alive: KeepAlive,
    ) -> Self {
        let client = client.and_then(|client| client.for_server(host, alpn));
        let tls = Some(client.map_err(|error| error.to_string()));
        Self {
            address,
            tls,
            keep_alive,
            choice: None,
            #[cfg(test)]
            fault: Arc::default(),
        }
    }

    /// Makes each new connection end an old choice.
    pub(super) fn with_choice(mut self, choice: Arc<Http1Choice>) -> Self {
        self.choice = Some(choice);
        self
    }

    /// Connects. The caller applies the timeout.
    pub(super) async fn connect(&self) -> io::Result<ServerStream> {
        if let Some(choice) = &self.choice {
            choice.expire();
        }
        match &self.tls {
            None => Ok(tls::plain(self.open().await?)),
            Some(Ok(client)) => client.connect(self.open().await?).await,
            Some(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidInput, error.clone())),
        }
    }

    async fn open(&self) -> io::Result<Stream> {
        #[cfg(test)]
        {
            let fault = *self.fault.lock().unwrap();
            match fault {
                Some(Fault::Error(code)) => return Err(io::Error::from_raw_os_error(code)),
                Some(Fault::Hang) => std::future::pending().await,
                None => {}
            }
        }
        let stream = Stream::connect(&self.address).await?;
        stream.set_keep_alive(&self.keep_alive);
        Ok(stream)
    }
}
