//! The two roles: what each reads, and what it remembers of the exchange.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, request, response};

use super::super::{
    Fault, Limits,
    head::{Lines, Section},
};

/// Which side of the connection this is.
pub trait Role: sealed::Role {}

pub(super) mod sealed {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::{
        super::{Fault, Length},
        Limits, Lines, Section,
    };

    /// What a head says about its message.
    #[derive(Debug)]
    pub struct HeadMeta {
        /// Not that of an interim response.
        pub is_final: bool,
        pub length: Length,
        pub keep_alive: bool,
    }

    pub trait Role: Sized {
        type Head;
        /// Is a head only read in answer to one that was sent?
        const IS_CLIENT: bool;
        /// What a head of the other side consists of.
        fn section(limits: &Limits) -> Section;
        /// A head without content, whose fields will be put into the empty map `fields`.
        fn empty_head(fields: HeaderMap) -> Self::Head;
        /// Reads a head into a blank one: in place, for it is large.
        fn parse(
            &mut self,
            into: &mut Self::Head,
            head: &Bytes,
            lines: &Lines,
            limits: &Limits,
        ) -> Result<HeadMeta, Fault>;
        /// A piece of the body has come.
        fn on_body_data(&mut self);
        /// Is an answer owed that has not begun?
        fn is_response_pending(&self) -> bool;
    }
}

use sealed::HeadMeta;

/// Reads requests, writes responses.
#[derive(Debug, Default)]
pub struct Server {
    /// A request's head has come, and no answer to it has begun; what follows is of that request.
    pub(super) response_pending: bool,
    pub(super) version: Version,
    /// The response must have no body: the request was HEAD.
    pub(super) is_head: bool,
    pub(super) expects_continue: bool,
}

/// Writes requests, reads responses.
#[derive(Debug, Default)]
pub struct Client {
    /// Of the request that is under way.
    pub(super) method: Method,
    pub(super) interim: usize,
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
        let meta = super::super::request::parse(into, head, lines, limits.lenient)?;
        self.response_pending = true;
        self.version = into.version;
        self.is_head = into.method == Method::HEAD;
        self.expects_continue = meta.expects_continue;
        Ok(HeadMeta { is_final: true, length: meta.length, keep_alive: meta.keep_alive })
    }

    fn on_body_data(&mut self) {
        self.expects_continue = false; // whoever sends the body does not wait
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
            return Err(Fault::Switched);
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

    fn on_body_data(&mut self) {}

    fn is_response_pending(&self) -> bool {
        false
    }
}
