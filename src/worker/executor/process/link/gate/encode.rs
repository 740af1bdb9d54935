//! Encodes the frame of a request.

use std::{fs::File, os::fd::OwnedFd, sync::Arc};

use crate::{
    Request,
    error::{BoxError, Error, Kind},
    peer::Peer,
    proto::gate::{MAX_INLINE, RequestBody, RequestEncoder},
    semantics::cgi::wsgi_variables,
};

/// An encoded request.
pub(super) struct Encoded {
    pub(super) frame: Vec<u8>,
    pub(super) attachment: Attachment,
}

/// The body that follows the frame.
pub(super) enum Attachment {
    Nothing,
    /// The descriptor of a file.
    File(Arc<File>),
    /// The descriptor of a pipe.
    Stream,
    /// The worker's end of a socket for the frames of a WebSocket.
    Socket(OwnedFd),
}

/// Encodes a request. `socket` is that of a request for a WebSocket.
///
/// # Errors
/// [`Kind::BadRequest`] for a path with an escaped slash, [`Kind::TooLarge`] for a head that does not fit into a
/// frame.
pub(super) fn encode(
    id: u32,
    request: &Request,
    socket: Option<OwnedFd>,
) -> Result<Encoded, BoxError> {
    let mut encoder = RequestEncoder::new(id);
    let local = Peer::memory();
    let peer = request.extensions().get::<Peer>().unwrap_or(&local);
    let length = request.body().len();
    wsgi_variables(request, length, peer, |name, value| encoder.variable(name, value))
        .map_err(|error| Error::new(Kind::BadRequest, error))?;
    let bytes = request.body().as_bytes().filter(|bytes| bytes.len() <= MAX_INLINE);
    let (body, attachment) = match (socket, &bytes, request.body().as_file()) {
        (Some(socket), ..) => (RequestBody::WebSocket, Attachment::Socket(socket)),
        (None, Some(bytes), _) => (RequestBody::Inline(bytes), Attachment::Nothing),
        (None, None, Some(file)) => (
            RequestBody::File { offset: file.offset(), length: file.len() },
            Attachment::File(file.file().clone()),
        ),
        (None, None, None) => (RequestBody::Stream { length }, Attachment::Stream),
    };
    let frame = encoder.finish(body).map_err(|error| Error::new(Kind::TooLarge, error))?;
    Ok(Encoded { frame, attachment })
}
