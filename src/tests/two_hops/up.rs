//! Requests through a proxy made of the cores: by the reference parser, the server must receive the same requests,
//! complete or not at all, and no further byte; and the client one response to each.

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

/// Fields of a client that must not be forwarded, also in trailers.
const OF_US: [&str; 7] = [
    "connection",
    "proxy",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
];

/// The time at which the server responds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    /// After the complete request.
    Late,
    /// After the head of the request.
    Early,
}

/// Forwards requests from bytes that arrive in pieces of `step`. Returns the number of complete requests.
pub(super) fn requests(now: Instant, bytes: &[u8], step: usize, answers: Answers) -> usize {
    let mut proxy = Proxy::new(now, answers);
    let mut input = BytesMut::new();
    for piece in bytes.chunks(step.max(1)) {
        input.extend_from_slice(piece);
        proxy.go(&mut input);
    }
    // The client ends its sending half.
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
    /// The bytes to the server, and those to the client.
    wire: BytesMut,
    back: BytesMut,
    /// The messages that this crate's parser found: the complete ones, and the current one.
    read: Vec<Message>,
    open: Option<Message>,
    /// The methods of the requests with a response, and whether the proxy made the last response.
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

    /// Sends a response of the server, and forwards it to the client.
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

    /// Asserts that the server received the messages that were read, and the client one response to each.
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
            // Some parsers merge trailers with the fields.
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
