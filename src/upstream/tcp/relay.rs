//! `Relay`: moves bytes both ways between two sockets until both directions have ended.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{io::AsyncWrite, time::Sleep};

use crate::net::{DrainWatch, Io, Stream, clock, splice::Pipe};

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) idle_timeout: Duration,
    pub(super) total_timeout: Option<Duration>,
}

/// The reason of the end of a forwarded connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum End {
    /// Both sides have closed it.
    Complete,
    /// There was no traffic for the idle timeout.
    Idle,
    /// It exceeded the total timeout.
    TooLong,
    /// A shutdown has aborted it.
    Aborted,
    /// The client's connection broke.
    Client(io::Error),
    /// The server's connection broke.
    Server(io::Error),
}

pub(super) struct Relay {
    client: Stream,
    server: Stream,
    up: Direction,
    down: Direction,
    limits: Limits,
    /// The time of the last traffic.
    last_moved: Instant,
    until: Option<Instant>,
    /// Fires at the earlier one of both timeouts at the time when it was set.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The bytes from one socket to the other.
#[derive(Default)]
struct Direction {
    /// `None` while it contains no bytes.
    pipe: Option<Pipe>,
    moved: u64,
    read_ended: bool,
    is_done: bool,
}

/// The socket of an error.
enum Broken {
    From(io::Error),
    To(io::Error),
}

impl Direction {
    /// Moves bytes until no progress is possible. Ready when the direction has ended.
    fn poll(
        &mut self,
        from: &Stream,
        to: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        while !self.is_done {
            if let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.len() > 0) {
                let n = ready!(pipe.poll_drain(to, cx)).map_err(Broken::To)?;
                self.moved += n as u64;
                continue;
            }
            if self.read_ended {
                self.pipe = None;
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::To)?;
                self.is_done = true;
                break;
            }
            let pipe = match &mut self.pipe {
                Some(pipe) => pipe,
                none => none.insert(Pipe::acquire().map_err(Broken::From)?),
            };
            match pipe.poll_fill(from, cx) {
                Poll::Pending => {
                    self.pipe = None; // an idle connection has no pipe
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => self.read_ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::From(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Relay {
    pub(super) fn new(client: Stream, server: Stream, limits: Limits) -> Self {
        let now = clock::now();
        Self {
            client,
            server,
            up: Direction::default(),
            down: Direction::default(),
            limits,
            last_moved: now,
            until: limits.total_timeout.and_then(|timeout| now.checked_add(timeout)),
            timer: None,
        }
    }

    /// Moves bytes until the connection has ended, or `watch` aborts it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, watch: &mut DrainWatch) -> Poll<End> {
        let before = self.up.moved + self.down.moved;
        let up = self.up.poll(&self.client, &mut self.server, cx);
        let down = self.down.poll(&self.server, &mut self.client, cx);
        match (&up, &down) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Complete),
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => {}
            _ => {
                if self.up.moved + self.down.moved > before {
                    self.last_moved = clock::now();
                }
                // Registers for the abort too.
                let _ = watch.poll_draining(cx);
                if watch.is_aborted() {
                    return Poll::Ready(End::Aborted);
                }
                return self.poll_expired(cx);
            }
        }
        Poll::Ready(match (up, down) {
            (Poll::Ready(Err(Broken::From(e))), _) | (_, Poll::Ready(Err(Broken::To(e)))) => {
                End::Client(e)
            }
            (Poll::Ready(Err(Broken::To(e))), _) | (_, Poll::Ready(Err(Broken::From(e)))) => {
                End::Server(e)
            }
            _ => End::Complete,
        })
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let now = clock::now();
            let idle_until = self.last_moved.checked_add(self.limits.idle_timeout);
            if self.until.is_some_and(|until| until <= now) {
                return Poll::Ready(End::TooLong);
            }
            if idle_until.is_some_and(|until| until <= now) {
                return Poll::Ready(End::Idle);
            }
            let Some(until) = [idle_until, self.until].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            let timer =
                self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until.into())));
            ready!(timer.as_mut().poll(cx));
            self.timer = None; // there was traffic since it was set
        }
    }

    /// Closes both connections: normally after a complete transfer, otherwise by a reset. Returns the numbers of
    /// bytes that were moved to the server and to the client.
    pub(super) fn finish(mut self, end: &End) -> (u64, u64) {
        if !matches!(end, End::Complete) {
            self.client.reset_on_close();
            self.server.reset_on_close();
        }
        (self.up.moved, self.down.moved)
    }
}
