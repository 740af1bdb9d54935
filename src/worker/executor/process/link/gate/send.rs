//! Sends a request to an idle worker.

use std::{
    io, mem,
    os::fd::{AsFd, OwnedFd},
};

use rustix::io::Errno;

use super::{
    encode::{Attachment, Encoded, encode},
    frames::FrameSocket,
    upload::{self, Upload},
};
use crate::{
    Request,
    error::{BoxError, Error, Kind},
};

/// A request that was sent.
pub(super) struct Sent {
    pub(super) id: u32,
    /// Whether nothing of it is missing: its body is in the frame or in a file.
    pub(super) is_whole: bool,
    pub(super) upload: Option<Upload>,
}

/// The reason why a request was not sent.
pub(super) enum SendError {
    /// It cannot be sent to any worker now. The worker does not know of it.
    Refused(BoxError),
    /// The worker has not received anything of it.
    Unsent(io::Error),
    /// The worker waits for the descriptor of its body.
    Incomplete(io::Error),
}

impl FrameSocket {
    /// Sends a request, and the descriptor of its body.
    pub(super) async fn send_request(
        &self,
        request: &mut Request,
        socket: Option<OwnedFd>,
    ) -> Result<Sent, SendError> {
        let id = self.lock().next_id();
        let Encoded { frame, attachment } =
            encode(id, request, socket).map_err(SendError::Refused)?;
        // Before the frame: a worker that has read the frame waits for the descriptor.
        let (writer, reader) = match attachment {
            Attachment::Stream => Some(upload::pipe().map_err(SendError::exhausted)?).unzip(),
            _ => (None, None),
        };
        let descriptor = match &attachment {
            Attachment::Nothing => None,
            Attachment::File(file) => Some(file.as_fd()),
            Attachment::Socket(theirs) => Some(theirs.as_fd()),
            Attachment::Stream => reader.as_ref().map(AsFd::as_fd),
        };
        let sent = self.socket.send(&frame, &[]).await;
        sent.map_err(|error| SendError::of_frame(error, frame.len()))?;
        self.lock().begin(id, descriptor.is_none());
        if let Some(descriptor) = descriptor {
            self.socket.send(&[0], &[descriptor]).await.map_err(SendError::Incomplete)?;
        }
        let upload = writer.map(|pipe| Upload::new(mem::take(request.body_mut()), pipe));
        Ok(Sent { id, is_whole: upload.is_none(), upload })
    }
}

impl SendError {
    /// Creates the error of a frame of `len` bytes that was not sent.
    fn of_frame(error: io::Error, len: usize) -> Self {
        if Errno::from_io_error(&error) != Some(Errno::MSGSIZE) {
            return Self::Unsent(error);
        }
        let why = format!(
            "a request of {len} bytes does not fit into the socket of a worker, see net.core.wmem_max"
        );
        Self::Refused(Error::new(Kind::TooLarge, io::Error::new(error.kind(), why)).into())
    }

    /// Creates the error of a request for which this process has no descriptor.
    fn exhausted(error: io::Error) -> Self {
        Self::Refused(Error::new(Kind::Overloaded, error).into())
    }
}
