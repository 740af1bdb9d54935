//! Responses through a proxy made of the cores: by the reference parser, the client must receive the same responses,
//! complete or not at all, and no further byte.

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Version, response};

use super::{
    pass::{OF_A_HOP, assert_none, check_input, list, respond},
    reference::{self, Message, Stop},
};
use crate::proto::h1::{Client, Conn, Event, Limits, Server};

/// Forwards responses to requests with `method` and GET in turn, from a client of this version. Returns the number of
/// complete responses.
pub(super) fn responses(
    now: Instant,
    bytes: &[u8],
    step: usize,
    method: &Method,
    version: Version,
) -> usize {
    let mut way = Way::new(now, version);
    let mut pieces = bytes.chunks(step.max(1));
    let mut input = BytesMut::new();
    loop {
        if way.is_free() {
            let method = if way.asked.len().is_multiple_of(2) { method } else { &Method::GET };
            way.ask(method);
        }
        match way.behind.recv(now, &mut input) {
            Ok(Some(event)) => way.take(event),
            Ok(None) if way.is_free() => {}
            Ok(None) => match pieces.next() {
                Some(piece) => input.extend_from_slice(piece),
                None => break,
            },
            Err(_) => way.fail(),
        }
    }
    match way.behind.recv_eof(now) {
        Ok(Some(event)) => way.take(event),
        Ok(None) => way.fail(),
        Err(_) => way.fail(),
    }
    way.check();
    let methods: Vec<&str> = way.asked.iter().map(Method::as_str).collect();
    check_input(&reference::responses(bytes, &methods, true), &way.read);
    way.read.len()
}

/// A proxy of responses.
struct Way {
    now: Instant,
    /// The version of the client.
    version: Version,
    front: Conn<Server>,
    behind: Conn<Client>,
    asked: Vec<Method>,
    out: BytesMut,
    read: Vec<Message>,
    open: Option<Message>,
    /// Whether the proxy has answered instead of the server.
    own: bool,
}

impl Way {
    fn new(now: Instant, version: Version) -> Self {
        let limits = Arc::new(Limits::default());
        Self {
            now,
            version,
            front: Conn::new(limits.clone(), now),
            behind: Conn::new(limits, now),
            asked: Vec::new(),
            out: BytesMut::new(),
            read: Vec::new(),
            open: None,
            own: false,
        }
    }

    /// Returns whether another exchange can begin.
    fn is_free(&self) -> bool {
        self.front.is_idle() && self.behind.is_idle()
    }

    fn ask(&mut self, method: &Method) {
        let version = self.version;
        let head = format!("{method} / {version:?}\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let mut input = BytesMut::from(&*head);
        let Ok(Some(Event::Head(head))) = self.front.recv(self.now, &mut input) else {
            panic!("a plain request")
        };
        while self.front.recv(self.now, &mut input).expect("a plain request").is_some() {}
        let (none, mut out) = (HeaderMap::new(), BytesMut::new());
        self.behind
            .send_head(self.now, &head.method, &head.uri, &none, Some(0), b"host: a\r\n", &mut out)
            .expect("an idle connection takes a request");
        self.behind.send_end(self.now, None, &mut out).expect("it has no body");
        self.asked.push(head.method);
    }

    fn take(&mut self, event: Event<response::Parts>) {
        match &event {
            Event::Head(head) => {
                self.open = Some(Message {
                    start: vec![head.status.as_str().to_owned()],
                    fields: list(&head.headers),
                    body: Vec::new(),
                    trailers: Vec::new(),
                });
            }
            Event::Data(data) => {
                self.open.as_mut().expect("a head came").body.extend_from_slice(data);
            }
            Event::End(trailers) => {
                let mut message = self.open.take().expect("a head came");
                message.trailers = trailers.as_ref().map(list).unwrap_or_default();
                self.read.push(message);
            }
        }
        respond(&mut self.front, self.now, event, self.behind.remaining_body(), &mut self.out);
    }

    /// Handles a failure of the server: the proxy answers if no response has begun, and otherwise aborts it.
    fn fail(&mut self) {
        let asks = self.asked.len() > self.read.len() && !self.own;
        if asks && self.open.is_none() {
            self.own = self.front.send_error(StatusCode::BAD_GATEWAY, b"", &mut self.out);
            assert!(self.own, "an answer is owed");
        }
    }

    fn check(&self) {
        let methods: Vec<&str> = self.asked.iter().map(Method::as_str).collect();
        let cut = self.open.is_some();
        let (seen, stop) = reference::responses(&self.out, &methods, !cut);
        let out = self.out.escape_ascii();
        assert_eq!(stop, if cut { Stop::Middle } else { Stop::End }, "of the client: {out}");
        assert_eq!(seen.len(), self.read.len() + usize::from(self.own), "responses: {out}");
        for (seen, read) in seen.iter().zip(&self.read) {
            let trailers =
                if self.version == Version::HTTP_10 { &Vec::new() } else { &read.trailers };
            assert_eq!(&seen.trailers, trailers, "HTTP/1.0 has none: {out}");
            assert_eq!((&seen.start, &seen.body), (&read.start, &read.body), "{out}");
            assert_none(&seen.fields, &OF_A_HOP);
        }
    }
}
