//! Requests, through a proxy made of the cores alone: the server behind must see, by the reference,
//! the same ones, whole or not at all, and not a byte more; and the client one answer to each.

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use http::{HeaderValue, header::HOST, request};

use super::{
    pass::{OF_A_HOP, assert_none, check_input, list, respond},
    reference::{self, Message, Stop, values},
};
use crate::{
    peer::Peer,
    proto::h1::{Client, Conn, Event, Fault, Limits, Server},
    semantics::{forwarded::ForwardedFields, gateway},
};

/// What a client must not say of itself in trailers either.
const OF_US: [&str; 7] = [
    "connection",
    "proxy",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
];

/// When the server behind answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    /// After the whole request.
    Late,
    /// After its head.
    Early,
}

/// Requests go through, from bytes that come in pieces of `step`. How many came out whole.
pub(super) fn requests(now: Instant, bytes: &[u8], step: usize, answers: Answers) -> usize {
    let mut proxy = Proxy::new(now, answers);
    let mut input = BytesMut::new();
    for piece in bytes.chunks(step.max(1)) {
        input.extend_from_slice(piece);
        proxy.go(&mut input);
    }
    // The client ends its half.
    match proxy.front.recv_eof(now) {
        Ok(None) => {}
        Ok(Some(event)) => proxy.take(event),
        Err(fault) => proxy.fault(fault),
    }
    proxy.check();
    check_input(&reference::requests(bytes), &proxy.read);
    proxy.read.len()
}

struct Proxy {
    now: Instant,
    answers: Answers,
    front: Conn<Server>,
    behind: Conn<Client>,
    /// To the server behind, and to the client.
    wire: BytesMut,
    back: BytesMut,
    /// What our own reader found: complete messages, and the one that is under way.
    read: Vec<Message>,
    open: Option<Message>,
    /// Methods of the requests that got an answer, and whether the last one was ours.
    answered: Vec<String>,
}

impl Proxy {
    fn new(now: Instant, answers: Answers) -> Self {
        let limits = Arc::new(Limits::default());
        Self {
            now,
            answers,
            front: Conn::new(limits.clone(), now),
            behind: Conn::new(limits, now),
            wire: BytesMut::new(),
            back: BytesMut::new(),
            read: Vec::new(),
            open: None,
            answered: Vec::new(),
        }
    }

    fn go(&mut self, input: &mut BytesMut) {
        loop {
            match self.front.recv(self.now, input) {
                Ok(None) => return,
                Ok(Some(event)) => self.take(event),
                Err(fault) => self.fault(fault),
            }
        }
    }

    fn take(&mut self, event: Event<request::Parts>) {
        match event {
            Event::Head(head) => self.head(head),
            Event::Data(data) => {
                let tail = self.behind.send_data(data.len(), &mut self.wire).expect("announced");
                self.wire.extend_from_slice(&data);
                self.wire.extend_from_slice(tail);
                self.open.as_mut().expect("a head came").body.extend_from_slice(&data);
            }
            Event::End(trailers) => {
                let ended = self.behind.send_end(self.now, trailers.as_ref(), &mut self.wire);
                ended.expect("the body is complete");
                let mut message = self.open.take().expect("a head came");
                message.trailers = list(&trailers.unwrap_or_default());
                if self.answers == Answers::Late {
                    self.answer(&message.start[0]);
                }
                self.read.push(message);
                assert!(self.front.is_idle() || self.front.is_closed());
                assert!(self.behind.is_idle(), "the connection behind can be used again");
            }
        }
    }

    fn head(&mut self, mut head: request::Parts) {
        let (method, length) = (head.method.to_string(), self.front.remaining_body());
        let target = head.uri.to_string();
        self.open = Some(Message {
            start: vec![method.clone(), target],
            fields: list(&head.headers),
            body: Vec::new(),
            trailers: Vec::new(),
        });
        if self.answers == Answers::Late {
            self.front.send_continue(&mut self.back); // the body is asked for
        }
        let headers = &mut head.headers;
        let peer = Peer::tcp(([192, 0, 2, 1], 1).into(), ([192, 0, 2, 9], 80).into());
        gateway::prepare_request(headers, &ForwardedFields::new(), &peer);
        if !headers.contains_key(HOST) {
            headers.insert(HOST, HeaderValue::from_static("behind"));
        }
        self.behind
            .send_head(self.now, &head.method, &head.uri, headers, length, b"", &mut self.wire)
            .expect("what was read can be written");
        if self.answers == Answers::Early {
            self.answer(&method);
        }
    }

    /// The server behind answers, and its answer goes to the client.
    fn answer(&mut self, method: &str) {
        let mut input = BytesMut::from(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X\r\nX: y\r\nContent-Length: 2\r\n\r\n",
        );
        if method != "HEAD" {
            input.extend_from_slice(b"ok");
        }
        let mut event = self.behind.recv(self.now, &mut input);
        while let Ok(Some(next)) = event {
            respond(&mut self.front, self.now, next, self.behind.remaining_body(), &mut self.back);
            event = self.behind.recv(self.now, &mut input);
        }
        assert!(matches!(event, Ok(None)) && input.is_empty());
        self.answered.push(method.to_owned());
    }

    fn fault(&mut self, fault: Fault) {
        if self.front.send_error(fault.status(), b"", &mut self.back) {
            self.answered.push(self.open.as_ref().map_or_else(String::new, |m| m.start[0].clone()));
        }
        assert!(!self.front.keeps_alive() && !self.front.wants_read());
    }

    /// The server behind sees what we read; the client sees one answer to each.
    fn check(&self) {
        let (seen, stop) = reference::requests(&self.wire);
        let wire = self.wire.escape_ascii();
        let expected = if self.open.is_some() { Stop::Middle } else { Stop::End };
        assert_eq!(stop, expected, "of the server behind: {wire}");
        assert_eq!(seen.len(), self.read.len(), "requests: {wire}");
        for (seen, read) in seen.iter().zip(&self.read) {
            assert_eq!((&seen.start, &seen.body), (&read.start, &read.body), "{wire}");
            assert_eq!(seen.trailers, read.trailers, "{wire}");
            assert_none(&seen.fields, &OF_A_HOP);
            assert_none(&seen.fields, &["connection", "expect", "proxy", "x-real-ip"]);
            // Some readers take trailers for fields.
            assert_none(&seen.trailers, &OF_A_HOP);
            assert_none(&seen.trailers, &OF_US);
            let host = values(&read.fields, "host");
            assert_eq!(values(&seen.fields, "host"), [*host.first().unwrap_or(&&b"behind"[..])]);
            assert_eq!(values(&seen.fields, "x-forwarded-for"), [b"192.0.2.1"], "{wire}");
            assert_eq!(values(&seen.fields, "x-forwarded-proto"), [b"http"], "{wire}");
            assert_eq!(values(&seen.fields, "x-forwarded-host"), host, "{wire}");
        }
        let methods: Vec<&str> = self.answered.iter().map(|m| &**m).collect();
        let (seen, stop) = reference::responses(&self.back, &methods, true);
        let back = self.back.escape_ascii();
        assert_eq!((seen.len(), stop), (methods.len(), Stop::End), "of the client: {back}");
    }
}
