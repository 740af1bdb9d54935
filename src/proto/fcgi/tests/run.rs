//! Runs a vector in pieces and records its events.

use std::sync::Arc;

use bytes::BytesMut;
use http::Method;

use super::vector::Vector;
use crate::proto::{
    fcgi::{Conn, Event, Fault, Params},
    h1::tests::{run::now, vector::quote},
};

#[derive(Default)]
struct Log {
    events: Vec<String>,
    /// The kind of the pieces that are joined.
    kind: &'static str,
    pieces: Vec<u8>,
}

impl Log {
    fn piece(&mut self, kind: &'static str, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "an empty piece");
        if self.kind != kind {
            self.flush();
            self.kind = kind;
        }
        self.pieces.extend_from_slice(bytes);
    }

    fn flush(&mut self) {
        if !self.pieces.is_empty() {
            let bytes = std::mem::take(&mut self.pieces);
            self.events.push(format!("{} {}", self.kind, quote(&bytes)));
        }
    }

    fn push(&mut self, event: impl Into<String>) {
        self.flush();
        self.events.push(event.into());
    }

    fn fault(mut self, fault: Fault) -> Vec<String> {
        self.push(format!("fault {fault:?}"));
        self.events
    }
}

/// Returns the events of a vector that arrives in `pieces`.
pub(super) fn run(vector: &Vector, pieces: &[&[u8]]) -> Vec<String> {
    let mut events = exchange(vector, pieces);
    if !vector.events.iter().any(|e| e.starts_with("field ")) {
        events.retain(|e| !e.starts_with("field "));
    }
    events
}

fn exchange(vector: &Vector, pieces: &[&[u8]]) -> Vec<String> {
    let now = now();
    let mut conn = Conn::new(Arc::new(vector.limits.clone()), now);
    let (mut input, mut log) = (BytesMut::new(), Log::default());
    let (mut requests, mut pieces) = (vector.requests.iter(), pieces.iter());
    let mut is_first = true;
    if vector.without_keep_alive {
        conn.disable_keep_alive();
    }
    loop {
        if conn.is_idle()
            && let Some(method) = requests.next()
        {
            send_next(&mut conn, vector, method, std::mem::take(&mut is_first));
        }
        match conn.recv(now, &mut input) {
            Ok(None) => match pieces.next() {
                Some(piece) => input.extend_from_slice(piece),
                None => break,
            },
            Ok(Some(event)) => record(&mut log, &conn, event),
            Err(fault) => {
                assert!(conn.is_closed() && !conn.wants_read() && conn.deadline().is_none());
                assert!(matches!(conn.recv(now, &mut input), Ok(None)), "it reads after a fault");
                return log.fault(fault);
            }
        }
    }
    if vector.eof {
        match conn.recv_eof() {
            Ok(()) => log.push("closed"),
            Err(fault) => return log.fault(fault),
        }
    } else if !conn.is_idle() && !conn.is_closed() {
        log.push("more");
    }
    log.flush();
    log.events
}

/// Sends the next request, without its body.
fn send_next(conn: &mut Conn, vector: &Vector, method: &str, is_first: bool) {
    let (now, mut out) = (now(), BytesMut::new());
    if method == "VALUES" {
        conn.send_get_values(now, &["FCGI_MAX_CONNS", "FCGI_MPXS_CONNS"], &mut out).unwrap();
        return;
    }
    let method: Method = method.parse().unwrap();
    let length = if is_first { vector.request_body } else { 0 };
    conn.send_request(now, &method, length, &Params::new(), &mut out).unwrap();
    if length == 0 {
        conn.send_end(now, &mut out).unwrap();
    }
    if is_first && vector.abort {
        conn.send_abort(&mut out).unwrap();
    }
}

fn record(log: &mut Log, conn: &Conn, event: Event) {
    match event {
        Event::Head(head) => {
            log.push(format!("head {}", head.status.as_u16()));
            for (name, value) in &head.headers {
                let line = format!("field {name}: {}", value.as_bytes().escape_ascii());
                log.push(line.trim_end());
            }
        }
        Event::Data(bytes) => log.piece("data", &bytes),
        Event::Stderr(bytes) => log.piece("stderr", &bytes),
        Event::End { app_status } => {
            if conn.dropped_stderr() > 0 {
                log.push(format!("dropped {}", conn.dropped_stderr()));
            }
            log.push(format!("end {app_status}"));
            assert_eq!(conn.is_idle(), conn.keeps_alive());
            log.push(if conn.is_idle() { "keep-alive" } else { "close" });
        }
        Event::Values(values) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let pairs = values.iter().map(|(n, v)| format!(" {}={}", text(n), text(v)));
            log.push(format!("values{}", pairs.collect::<String>()));
        }
    }
}
