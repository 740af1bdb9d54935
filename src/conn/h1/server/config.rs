//! The options of a server's connection, each with its reason.

use std::{sync::Arc, time::Duration};

use crate::{Budget, net::Gate, peer::Rate, proto::h1::Limits};

/// Options of [`Connection`](super::Connection); the defaults are safe to face the internet with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Bounds and times of reading: see [`Limits`].
    pub limits: Arc<Limits>,
    /// What heads that are on their way, and answers that wait for slow clients, may take together
    /// with other buffers. When it is spent, requests are answered 503. Default: one of its own.
    pub budget: Budget,
    /// Asked before each head is read: while it is closed nothing is, and clients wait in the
    /// kernel. Default: always open.
    pub gate: Gate,
    /// How long a complete head may wait for the service to be ready; then it is answered 503.
    /// Default 30 s: a layer that queues has its own, shorter bound.
    pub ready_timeout: Duration,
    /// How long the service may take to answer a request that is complete, or whose body it does
    /// not read; then it is dropped, and 504 is answered. Default 5 min: layers and workers have
    /// their own, shorter bounds, this one is for a service that has none.
    pub answer_timeout: Duration,
    /// How long a write may make no progress. Default 60 s, as nginx: a client that takes not one
    /// byte in that time, nor any that the kernel holds for it, is not reading any more.
    pub write_timeout: Duration,
    /// How fast a client must take a response, once it is slower than we are. Default 240 bytes a
    /// second with a grace of 120 s: a window that opens by a byte now and then is no progress.
    pub write_rate: Rate,
    /// Bytes of an unread request body that are read and dropped so that the connection can be
    /// kept after an early response. Default 64 KiB: less than a new connection costs.
    pub drain_bytes: u64,
    /// How long a connection that is closed early goes on reading, so that the response reaches a
    /// client that is still sending. Default 5 s.
    pub linger: Duration,
    /// Bytes that are read and dropped in that time. Default 1 MiB.
    pub linger_bytes: u64,
    /// Bytes of further requests that are read while one is answered: one read above it at most.
    /// Default 16 KiB: they are read only to notice that the client has left, and are kept until
    /// their turn comes. Zero reads none, and then a client that leaves is noticed only when it is
    /// written to; so is one that leaves behind more than this, or behind a body that the service
    /// does not read. [`answer_timeout`](Self::answer_timeout) bounds what it can hold.
    pub read_ahead: usize,
    /// Is a client that ends its sending half behind a request still there for the answer? By
    /// default it counts as gone, and what is done for it is dropped: the two cannot be told
    /// apart, and a client that has left is by far the more usual one.
    pub half_close: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Arc::default(),
            budget: Budget::default(),
            gate: Gate::always_open(),
            ready_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(300),
            write_timeout: Duration::from_secs(60),
            write_rate: Rate::new(240, Duration::from_secs(120)),
            drain_bytes: 64 << 10,
            linger: Duration::from_secs(5),
            linger_bytes: 1 << 20,
            read_ahead: 16 << 10,
            half_close: false,
        }
    }
}
