//! Responses of a worker, and their bodies.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};
use rustix::io::Errno;

use super::super::super::super::super::{
    process::{ApplicationError, GateError},
    queue::job::{Answer, Job},
};
use super::{FrameSocket, internal, log_exception, upload::Upload};
use crate::{
    Body, Response,
    body::FileSlice,
    error::{BoxError, Error, Kind},
    proto::gate::{Fault, Head, Reply},
    semantics::gateway,
};

/// Converts the first frame of a response to the answer to the request.
///
/// # Errors
/// The frame does not begin a response.
pub(super) fn respond(
    frames: &Arc<FrameSocket>,
    method: &Method,
    reply: Reply,
    descriptor: Option<OwnedFd>,
    (upload, upload_error): (Option<Upload>, Option<BoxError>),
    job: &Arc<Job>,
) -> Result<Answer, Fault> {
    Ok(match reply {
        Reply::Complete { head, body, .. } => {
            head.map_err(bad_head).and_then(|head| complete(method, head, body))
        }
        Reply::Head { id, head } => head.map_err(bad_head).map(|head| {
            if has_no_body(method, head.status) {
                return response(head, Body::empty());
            }
            let remaining = head.length;
            let body = Incoming {
                frames: frames.clone(),
                job: job.clone(),
                id,
                remaining,
                upload,
                upload_error,
                has_ended: false,
            };
            response(head, Body::new(body))
        }),
        Reply::File { head, offset, length, .. } => {
            let Some(file) = descriptor.map(File::from) else {
                return Ok(head
                    .map_err(bad_head)
                    .and_then(|head| without_file(method, head, length)));
            };
            // Another kind of file could block its reader.
            if !file.metadata().is_ok_and(|meta| meta.is_file()) {
                return Err(Fault::Descriptor);
            }
            head.map_err(bad_head).and_then(|head| {
                let body = Body::file(FileSlice::new(Arc::new(file), offset, length));
                complete(method, head, body)
            })
        }
        Reply::Failed { message, traceback, .. } => {
            log_exception(job, &traceback);
            Err(internal(ApplicationError::Raised { message }))
        }
        _ => return Err(Fault::Unsolicited),
    })
}

fn bad_head(error: crate::proto::gate::BadHead) -> BoxError {
    internal(ApplicationError::Head(error))
}

/// Creates a response whose file this process could not receive, since it has no free descriptor.
fn without_file(method: &Method, mut head: Head, length: u64) -> Answer {
    if !has_no_body(method, head.status) {
        // The application has run, so the response must not invite the client to repeat the request.
        return Err(Error::new(Kind::BadGateway, io::Error::from(Errno::MFILE)).into());
    }
    set_length_of_get(method, &mut head, length);
    Ok(response(head, Body::empty()))
}

/// Sets the length that a response to a GET would have (RFC 9110 section 8.6).
fn set_length_of_get(method: &Method, head: &mut Head, length: u64) {
    if *method == Method::HEAD && head.length.is_none() && length > 0 {
        head.headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
}

/// Creates a response with its complete body.
fn complete(method: &Method, mut head: Head, body: impl Into<Body>) -> Answer {
    let body = body.into();
    let actual = body.len().unwrap_or_default();
    if has_no_body(method, head.status) {
        set_length_of_get(method, &mut head, actual);
        return Ok(response(head, Body::empty()));
    }
    match head.length {
        Some(declared) if declared != actual => {
            Err(internal(ApplicationError::Length { declared, actual }))
        }
        _ => Ok(response(head, body)),
    }
}

/// Returns whether the response has no body (RFC 9112 section 6.3, rule 1).
fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn response(mut head: Head, body: Body) -> Response {
    gateway::prepare_response(&mut head.headers);
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

/// A body that the worker streams.
struct Incoming {
    frames: Arc<FrameSocket>,
    job: Arc<Job>,
    id: u32,
    /// Bytes that are missing, if the length is known.
    remaining: Option<u64>,
    /// The rest of the request's body, while the worker reads it.
    upload: Option<Upload>,
    /// The error of the request's body.
    upload_error: Option<BoxError>,
    has_ended: bool,
}

impl Incoming {
    fn data(&mut self, data: Bytes) -> Result<Frame<Bytes>, ApplicationError> {
        if let Some(remaining) = &mut self.remaining {
            let more = data.len() as u64;
            *remaining = remaining.checked_sub(more).ok_or(ApplicationError::TooLong)?;
        }
        Ok(Frame::data(data))
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if let Some(error) = Upload::poll(&mut self.upload, cx) {
            self.upload_error = Some(error);
        }
        let reply = ready!(self.frames.poll_reply(cx, self.id, &self.job));
        let error = match reply {
            Ok((Reply::Chunk { data, .. }, _)) => match self.data(data) {
                Ok(frame) => return Poll::Ready(Some(Ok(frame))),
                Err(error) => internal(error),
            },
            Ok((Reply::End { .. }, _)) => {
                self.has_ended = true;
                match self.remaining {
                    None | Some(0) => return Poll::Ready(None),
                    Some(missing) => internal(ApplicationError::TooShort { missing }),
                }
            }
            Ok((Reply::Failed { message, traceback, .. }, _)) => match self.upload_error.take() {
                Some(error) => error,
                None => {
                    log_exception(&self.job, &traceback);
                    internal(ApplicationError::Raised { message })
                }
            },
            Ok(_) => bad_gateway(self.frames.set_violated(Fault::Unsolicited)),
            Err(error) => bad_gateway(error),
        };
        self.has_ended = true;
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

pub(super) fn bad_gateway(error: GateError) -> BoxError {
    Error::new(Kind::BadGateway, error).into()
}
