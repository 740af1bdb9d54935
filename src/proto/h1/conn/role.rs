//! The two roles: what each reads, and what it remembers of the exchange.

use bytes::Bytes;
use http::{Method, StatusCode, Version, request, response};

use super::super::{
    Fault, Limits,
    head::{Lines, Section},
};

/// Which side of the connection this is.
pub trait Role: sealed::Role {}

pub(super) mod sealed {
    use bytes::Bytes;

    use super::{
        super::{Fault, Length},
        Limits, Lines, Section,
    };

    /// What a head says about its message.
    #[derive(Debug)]
    pub struct Read<H> {
        pub head: Option<H>,
        pub length: Length,
        pub keep_alive: bool,
    }

    pub trait Role: Sized {
        type Head;
        /// Is a head only read in answer to one that was sent?
        const ASKS_FIRST: bool;
        /// What a head of the other side consists of.
        fn section(limits: &Limits) -> Section;
        fn parse(
            &mut self,
            head: &Bytes,
            lines: &Lines,
            limits: &Limits,
        ) -> Result<Read<Self::Head>, Fault>;
        /// A piece of the body has come.
        fn body_began(&mut self);
        /// Is an answer owed that has not begun?
        fn is_asked(&self) -> bool;
    }
}

use sealed::Read;

/// Reads requests, writes responses.
#[derive(Debug, Default)]
pub struct Server {
    /// A request's head has come, and no answer to it has begun; what follows is of that request.
    pub(super) asked: bool,
    pub(super) version: Version,
    /// The response must have no body: the request was HEAD.
    pub(super) head: bool,
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
    const ASKS_FIRST: bool = false;

    fn section(limits: &Limits) -> Section {
        Section::of_request(limits)
    }

    fn parse(
        &mut self,
        head: &Bytes,
        lines: &Lines,
        limits: &Limits,
    ) -> Result<Read<Self::Head>, Fault> {
        let (parts, meta) = super::super::request::parse(head, lines, limits.lenient)?;
        self.asked = true;
        self.version = parts.version;
        self.head = parts.method == Method::HEAD;
        self.expects_continue = meta.expects_continue;
        Ok(Read { head: Some(parts), length: meta.length, keep_alive: meta.keep_alive })
    }

    fn body_began(&mut self) {
        self.expects_continue = false; // whoever sends the body does not wait
    }

    fn is_asked(&self) -> bool {
        self.asked
    }
}

impl sealed::Role for Client {
    type Head = response::Parts;
    const ASKS_FIRST: bool = true;

    fn section(limits: &Limits) -> Section {
        Section::of_response(limits)
    }

    fn parse(
        &mut self,
        head: &Bytes,
        lines: &Lines,
        limits: &Limits,
    ) -> Result<Read<Self::Head>, Fault> {
        let (parts, meta) =
            super::super::response::parse(head, lines, &self.method, limits.lenient)?;
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Fault::Switched);
        }
        let interim = parts.status.is_informational();
        if interim {
            self.interim += 1;
            if self.interim > limits.interim_responses {
                return Err(Fault::Interim);
            }
        }
        let head = (!interim).then_some(parts);
        Ok(Read { head, length: meta.length, keep_alive: meta.keep_alive })
    }

    fn body_began(&mut self) {}

    fn is_asked(&self) -> bool {
        false
    }
}
