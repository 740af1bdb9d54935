//! A client and a server that exchange messages in pieces of any size.

use std::sync::Arc;

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Uri};

use super::run::now;
use crate::proto::h1::{Client, Conn, Event, Limits, Role, Server};

/// A xorshift64 generator with a fixed seed.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// The messages that one side sends, and its progress.
#[derive(Default)]
struct Saying {
    length: Option<u64>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    at: usize,
}

impl Saying {
    fn random(rng: &mut Rng) -> Self {
        let size = [0, 1, 100, 5000][rng.below(4)];
        let body: Vec<u8> = (0..rng.below(size + 1)).map(|_| rng.next() as u8).collect();
        let length = rng.one_in(2).then_some(body.len() as u64);
        let trailers = (length.is_none() && rng.one_in(2)).then(|| {
            let mut map = HeaderMap::new();
            for _ in 0..=rng.below(4) {
                let name = ["x-a", "x-b", "x-c"][rng.below(3)];
                map.append(name, rng.next().into());
            }
            map
        });
        Self { length, body, trailers, at: 0 }
    }

    /// Sends the next piece or the end.
    fn go_on<R: Role>(&mut self, conn: &mut Conn<R>, rng: &mut Rng, wire: &mut BytesMut) {
        if self.at == self.body.len() {
            return conn.send_end(now(), self.trailers.as_ref(), wire).unwrap();
        }
        let n = 1 + rng.below(self.body.len() - self.at);
        let after = conn.send_data(n, wire).unwrap();
        wire.extend_from_slice(&self.body[self.at..self.at + n]);
        wire.extend_from_slice(after);
        self.at += n;
    }
}

/// The message that one side received.
#[derive(Default)]
struct Heard {
    head: bool,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    end: bool,
}

impl Heard {
    fn take<H>(&mut self, event: Event<H>) {
        assert!(!self.end, "an event after the end");
        match event {
            Event::Head(_) => assert!(!std::mem::replace(&mut self.head, true), "a second head"),
            Event::Data(data) => self.body.extend_from_slice(&data),
            Event::End(trailers) => (self.trailers, self.end) = (trailers, true),
        }
    }

    fn assert_is(&self, said: &Saying) {
        assert!(self.head && self.end && self.body == said.body);
        assert_eq!(self.trailers, said.trailers);
    }
}

/// Moves some bytes to the other side.
fn carry(wire: &mut BytesMut, input: &mut BytesMut, rng: &mut Rng) {
    let most = if rng.one_in(3) { 3 } else { wire.len() };
    let n = rng.below(most.min(wire.len()) + 1);
    input.extend_from_slice(&wire.split_to(n));
}

struct Pair {
    client: Conn<Client>,
    server: Conn<Server>,
    /// For the server and for the client: the bytes in transit, and the bytes that have arrived.
    up: (BytesMut, BytesMut),
    down: (BytesMut, BytesMut),
}

impl Pair {
    fn new() -> Self {
        let limits = Arc::new(Limits::default());
        Self {
            client: Conn::new(limits.clone(), now()),
            server: Conn::new(limits, now()),
            up: Default::default(),
            down: Default::default(),
        }
    }

    fn ask(&mut self, method: &Method, expect: bool, length: Option<u64>) {
        let mut headers = HeaderMap::new();
        if expect {
            headers.insert("expect", "100-continue".parse().unwrap());
        }
        let target = Uri::from_static("http://a/b?c");
        self.client
            .send_head(now(), method, &target, &headers, length, b"x: y\r\n", &mut self.up.0)
            .unwrap();
    }

    fn answer(&mut self, length: Option<u64>) {
        let (status, none) = (StatusCode::OK, HeaderMap::new());
        self.server.send_head(now(), status, &none, length, b"", &mut self.down.0).unwrap();
    }

    /// Runs one request and its response.
    fn exchange(&mut self, rng: &mut Rng) {
        let head = rng.one_in(5);
        let method = if head { Method::HEAD } else { Method::POST };
        let (mut request, mut response) = (Saying::random(rng), Saying::random(rng));
        if head {
            (response.body, response.trailers) = (Vec::new(), None);
        }
        let mut begun = false;
        let (mut asked, mut answered) = (Heard::default(), Heard::default());
        self.ask(&method, rng.one_in(3), request.length);
        while !(self.client.is_idle() && self.server.is_idle() && answered.end) {
            match rng.below(5) {
                0 if self.client.is_writing_body() => {
                    request.go_on(&mut self.client, rng, &mut self.up.0);
                }
                1 => {
                    carry(&mut self.up.0, &mut self.up.1, rng);
                    while let Some(event) = self.server.recv(now(), &mut self.up.1).unwrap() {
                        asked.take(event);
                    }
                }
                2 => {
                    carry(&mut self.down.0, &mut self.down.1, rng);
                    while let Some(event) = self.client.recv(now(), &mut self.down.1).unwrap() {
                        answered.take(event);
                    }
                }
                3 if self.server.wants_continue() => self.server.send_continue(&mut self.down.0),
                4 if self.server.is_writing_body() => {
                    response.go_on(&mut self.server, rng, &mut self.down.0);
                }
                // Often before the whole request has arrived, but not while the client waits for 100:
                // that would close the connection.
                4 if asked.head && !begun && !self.server.wants_continue() => {
                    self.answer(response.length);
                    begun = true;
                }
                _ => {}
            }
        }
        asked.assert_is(&request);
        answered.assert_is(&response);
    }
}

#[test]
fn client_and_server_agree_however_the_wire_cuts() {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let rounds = if cfg!(miri) { 5 } else { 50 };
    for _ in 0..20 {
        let mut pair = Pair::new();
        for _ in 0..rounds {
            pair.exchange(&mut rng);
            assert!(pair.up.0.is_empty() && pair.up.1.is_empty(), "bytes left to the server");
            assert!(pair.down.0.is_empty() && pair.down.1.is_empty(), "bytes left to the client");
        }
    }
}
