//! The response of an exchange, whose body takes over the connection.

use std::{io, time::Instant};

use bytes::{Bytes, BytesMut};
use http::{Response, response};

use super::{ENDED, Outgoing};
use crate::{
    body::Body,
    conn::{
        Checkin,
        client::{Cause, Connection, Parts, Protocol, incoming::Incoming},
        head_pool,
        upgrade::{self, Upgraded},
        websocket,
    },
    net::Io,
    proto::h1::Event,
};

impl<P: Protocol, C> Outgoing<P, C> {
    /// Returns the response. Its body owns the connection, unless the body is already complete.
    pub(super) fn respond<I: Io + 'static>(
        &mut self,
        connection: Connection<P, I>,
        now: Instant,
        parts: response::Parts,
    ) -> Result<Response<Body>, Cause<P>>
    where
        C: Checkin<Connection<P, I>>,
    {
        let request = self.parts.take().expect(ENDED);
        let checkin = self.checkin.take().expect(ENDED);
        let mut upload = self.upload.take();
        let mut connection = connection; // an error drops it before what `checkin` holds of the pool
        if connection.state.core.has_switched() {
            if !websocket::has_valid_accept(&request.headers, &parts.headers) {
                let wrong = "the server's Sec-WebSocket-Accept is not that of the key";
                return Err(Cause::Io(io::Error::new(io::ErrorKind::InvalidData, wrong)));
            }
            return switch(connection, checkin, parts);
        }
        head_pool::release(request);
        if self.held_until.is_some() {
            // The server has answered without the body, so it does not need it.
            upload = None;
            connection.state.core.abandon_body();
        }
        let state = &mut *connection.state;
        if state.io.can_splice() {
            state.first_read.record_head(state.core.unframed_body());
        }
        let mut buffered = BufferedBody::default();
        loop {
            let state = &mut *connection.state;
            let event = if state.core.may_hold_body(&state.input) {
                state.core.recv(now, &mut state.input).map_err(Cause::Fault)?
            } else {
                None
            };
            match event {
                Some(Event::Data(data)) => buffered.push(data),
                Some(Event::End(_)) => break,
                Some(Event::Head(_)) | None => {
                    let first = buffered.finish();
                    let incoming = Incoming::new(connection, checkin, upload, first, now);
                    return Ok(Response::from_parts(parts, Body::segmented(incoming)));
                }
            }
        }
        if connection.is_reusable() {
            checkin.checkin(connection, now);
        }
        Ok(Response::from_parts(parts, buffered.finish().into()))
    }
}

/// Returns a response of 101 with the stream. Its body holds `checkin`, and what that holds of the pool, until it is
/// dropped.
fn switch<P: Protocol, I: Io + 'static, C: Send + 'static>(
    connection: Connection<P, I>,
    checkin: C,
    parts: response::Parts,
) -> Result<Response<Body>, Cause<P>> {
    if !connection.state.output.is_empty() {
        // The server has not received the request that it agrees to.
        return Err(Cause::Io(io::ErrorKind::InvalidData.into()));
    }
    let Parts { io, read_ahead } = connection.into_parts();
    let mut response = Response::from_parts(parts, upgrade::open_body(checkin));
    upgrade::put_stream(&mut response, Upgraded::new(io, read_ahead));
    Ok(response)
}

/// The part of a body that arrived with the head: usually one piece, which is not copied.
#[derive(Default)]
struct BufferedBody {
    first: Bytes,
    more: BytesMut,
}

impl BufferedBody {
    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() {
            self.first = data;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&self.first);
        }
        self.more.extend_from_slice(&data);
    }

    fn finish(self) -> Bytes {
        if self.more.is_empty() { self.first } else { self.more.freeze() }
    }
}
