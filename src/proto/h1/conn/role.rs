//! The two roles: the heads that each reads, and the state of its exchange.

use std::collections::VecDeque;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, UPGRADE},
    request, response,
};

use super::super::{
    Fault, Length, Limits,
    head::{Lines, Section},
};

/// A side of a connection: [`Server`] or [`Client`].
pub trait Role: sealed::Role {}

pub(super) mod sealed {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::{Limits, Lines, Section};
    use crate::proto::h1::{Fault, Length};

    /// The framing of a message, as stated by its head.
    #[derive(Debug)]
    pub struct HeadMeta {
        /// Whether the head is not that of an interim response.
        pub is_final: bool,
        pub length: Length,
        pub keep_alive: bool,
    }

    pub trait Role: Sized {
        type Head;
        /// Whether heads are only read as responses to heads that were sent.
        const IS_CLIENT: bool;
        /// Returns the structure and bounds of a head of the peer.
        fn section(limits: &Limits) -> Section;
        /// Returns a head with default parts and the empty map `fields`.
        fn empty_head(fields: HeaderMap) -> Self::Head;
        /// Parses a head into an empty one, by reference because the type is large.
        fn parse(
            &mut self,
            into: &mut Self::Head,
            head: &Bytes,
            lines: &Lines,
            limits: &Limits,
        ) -> Result<HeadMeta, Fault>;
        /// Receives the head of an interim response.
        fn on_interim(&mut self, head: Self::Head);
        /// Records that body bytes have arrived.
        fn on_body_data(&mut self);
        /// Returns whether a request has arrived and its response has not begun.
        fn is_response_pending(&self) -> bool;
    }
}

use sealed::HeadMeta;

/// The role that reads requests and writes responses.
#[derive(Debug, Default)]
pub struct Server {
    /// A request's head has arrived and its response has not begun. The fields below are the request's.
    pub(super) response_pending: bool,
    pub(super) version: Version,
    /// The method is HEAD, so the response, which has not begun, has no body.
    pub(super) is_head: bool,
    /// The method is CONNECT: a success would begin a tunnel.
    pub(super) is_connect: bool,
    pub(super) expects_continue: bool,
    /// `Connection` has the option `upgrade`.
    pub(super) has_upgrade: bool,
    /// `Connection` has options other than `close`, `keep-alive` and `upgrade`.
    pub(super) names_fields: bool,
}

/// The role that writes requests and reads responses.
#[derive(Debug, Default)]
pub struct Client {
    /// The method of the current request.
    pub(super) method: Method,
    /// Interim responses received so far.
    pub(super) interim: usize,
    /// Interim responses that the driver has not taken, without 100.
    pub(super) interim_heads: VecDeque<response::Parts>,
    /// Whether the request has `Expect: 100-continue`, and the server has not answered.
    pub(super) awaits_continue: bool,
    /// The protocol that the next request asks to switch to.
    pub(super) next_upgrade: Option<HeaderValue>,
    /// The protocol that the current request asks to switch to.
    pub(super) upgrade: Option<HeaderValue>,
    /// The server has switched to it.
    pub(super) has_switched: bool,
}

impl Role for Server {}
impl Role for Client {}

impl sealed::Role for Server {
    type Head = request::Parts;
    const IS_CLIENT: bool = false;

    fn section(limits: &Limits) -> Section {
        Section::of_request(limits)
    }

    fn empty_head(fields: HeaderMap) -> request::Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.headers = fields;
        head
    }

    fn parse(
        &mut self,
        into: &mut request::Parts,
        head: &Bytes,
        lines: &Lines,
        limits: &Limits,
    ) -> Result<HeadMeta, Fault> {
        let meta = super::super::request::parse(into, head, lines, limits);
        self.is_head = into.method == Method::HEAD; // also that of a request that is refused
        let meta = meta?;
        self.response_pending = true;
        self.version = into.version;
        self.is_connect = into.method == Method::CONNECT;
        self.expects_continue = meta.expects_continue;
        self.has_upgrade = meta.has_upgrade;
        self.names_fields = meta.names_fields;
        Ok(HeadMeta { is_final: true, length: meta.length, keep_alive: meta.keep_alive })
    }

    fn on_interim(&mut self, _: request::Parts) {}

    fn on_body_data(&mut self) {
        self.expects_continue = false; // the client has not waited
    }

    fn is_response_pending(&self) -> bool {
        self.response_pending
    }
}

impl sealed::Role for Client {
    type Head = response::Parts;
    const IS_CLIENT: bool = true;

    fn section(limits: &Limits) -> Section {
        Section::of_response(limits)
    }

    fn empty_head(fields: HeaderMap) -> response::Parts {
        let (mut head, ()) = Response::new(()).into_parts();
        head.headers = fields;
        head
    }

    fn parse(
        &mut self,
        into: &mut response::Parts,
        head: &Bytes,
        lines: &Lines,
        limits: &Limits,
    ) -> Result<HeadMeta, Fault> {
        let meta = super::super::response::parse(into, head, lines, &self.method, limits.lenient)?;
        if into.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 9110 section 7.8: a server must not switch to a protocol that was not asked for.
            let asked = self.upgrade.take().ok_or(Fault::Switched)?;
            if !switches_to(&asked, &into.headers) {
                return Err(Fault::Switched);
            }
            self.has_switched = true;
            return Ok(HeadMeta { is_final: true, length: Length::Known(0), keep_alive: false });
        }
        let interim = into.status.is_informational();
        if interim {
            self.interim += 1;
            if self.interim > limits.interim_responses {
                return Err(Fault::Interim);
            }
        }
        Ok(HeadMeta { is_final: !interim, length: meta.length, keep_alive: meta.keep_alive })
    }

    fn on_interim(&mut self, head: response::Parts) {
        if head.status == StatusCode::CONTINUE {
            self.awaits_continue = false;
        } else {
            self.interim_heads.push_back(head);
        }
    }

    fn on_body_data(&mut self) {}

    fn is_response_pending(&self) -> bool {
        false
    }
}

/// Returns whether the fields of a response of 101 name this protocol alone.
fn switches_to(protocol: &HeaderValue, headers: &HeaderMap) -> bool {
    let mut named = headers.get_all(UPGRADE).iter();
    let is_named = |name: &HeaderValue| name.as_bytes().eq_ignore_ascii_case(protocol.as_bytes());
    let mut options =
        headers.get_all(CONNECTION).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    named.next().is_some_and(is_named)
        && named.next().is_none()
        && options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}
