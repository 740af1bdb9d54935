//! `Tunnel`: a WebSocket, whose frames have a socket of their own.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
};

use bytes::BytesMut;
use http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_ACCEPT};
use tokio::net::UnixStream;

use super::super::super::super::super::queue::job::Answer;
use super::super::bridge::bridge;
use crate::{
    Request, Response,
    conn::upgrade::{self, Upgraded},
    error::{Error, Kind},
    net::Stream,
    semantics::upgrade::{is_websocket, requested_by},
};

/// The server's end of the socket, and the answer to the client's key.
pub(super) struct Tunnel {
    stream: Stream,
    accept: HeaderValue,
}

impl Tunnel {
    /// Creates the socket pair for a request that asks for a WebSocket, and returns the worker's end too.
    ///
    /// # Errors
    /// The response to a request whose handshake is not valid, or the error of socketpair(2).
    pub(super) fn new(request: &Request) -> Result<Option<(Self, OwnedFd)>, Box<Answer>> {
        let (method, version) = (request.method(), request.version());
        if !requested_by(method, version, request.headers()).is_some_and(is_websocket) {
            return Ok(None);
        }
        let accept = upgrade::accept(request).map_err(|refused| Box::new(Answer::Ok(*refused)))?;
        let (stream, theirs) = pair().map_err(|error| -> Box<Answer> {
            Box::new(Err(Error::new(Kind::Overloaded, error).into()))
        })?;
        Ok(Some((Self { stream, accept }, theirs)))
    }

    /// Converts the worker's response to that of the handshake: a status of 2xx accepts the WebSocket.
    pub(super) fn respond(self, mut response: Response) -> Response {
        if !response.status().is_success() {
            return response;
        }
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        bridge(response, Upgraded::new(self.stream, BytesMut::new()))
    }
}

fn pair() -> io::Result<(Stream, OwnedFd)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?.into(), theirs.into()))
}
