//! `InterimResponses`: responses before the final one, such as 103 Early Hints.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering, fence},
    },
};

use http::{HeaderMap, StatusCode};

/// Interim responses to one request that may wait to be sent.
pub const MAX_INTERIM: usize = 8;

/// A queue of interim responses to a request, which are sent to the client before the final one: 103 Early Hints
/// (RFC 8297), or 102. The server's driver puts it into the extensions of each request.
///
/// [`upstream`](crate::upstream) adds those of the server, without their hop-by-hop fields. The driver sends the queue
/// after it has polled the service's future, so those of a future that another task polls are sent with some delay. A
/// client of HTTP/1.0 gets none.
///
/// ```
/// use http::{HeaderMap, HeaderValue, StatusCode, header::LINK};
/// use vestibule::{Request, conn::InterimResponses};
///
/// fn hint(request: &Request) {
///     if let Some(interim) = request.extensions().get::<InterimResponses>() {
///         let mut headers = HeaderMap::new();
///         headers.insert(LINK, HeaderValue::from_static("</style.css>; rel=preload; as=style"));
///         let _ = interim.send(StatusCode::EARLY_HINTS, headers);
///     }
/// }
/// # hint(&Request::new(vestibule::Body::empty()));
/// ```
#[derive(Clone, Default)]
pub struct InterimResponses(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<VecDeque<(StatusCode, HeaderMap)>>,
    /// Whether the queue has any: almost no request has, so the driver checks this before it locks.
    some_wait: AtomicBool,
}

/// The queue is full, or the status is not that of an interim response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the interim response cannot be sent")]
pub struct InterimRefused;

impl InterimResponses {
    /// Creates an empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a response.
    ///
    /// # Errors
    /// [`InterimRefused`] if [`MAX_INTERIM`] are queued, or for a status that is final, or 100 or 101, which only the
    /// drivers send.
    pub fn send(&self, status: StatusCode, headers: HeaderMap) -> Result<(), InterimRefused> {
        let is_other = matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS);
        let mut queue = self.lock();
        if !status.is_informational() || is_other || queue.len() >= MAX_INTERIM {
            return Err(InterimRefused);
        }
        queue.push_back((status, headers));
        self.0.some_wait.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes the oldest response.
    pub(crate) fn take(&self) -> Option<(StatusCode, HeaderMap)> {
        if !self.0.some_wait.load(Ordering::Acquire) {
            return None;
        }
        let mut queue = self.lock();
        let oldest = queue.pop_front();
        self.0.some_wait.store(!queue.is_empty(), Ordering::Release);
        oldest
    }

    /// Empties the queue for another request. Returns `false` if another handle exists.
    pub(crate) fn reset(&mut self) -> bool {
        // No other handle can appear: this is the only one.
        if Arc::strong_count(&self.0) > 1 {
            return false;
        }
        fence(Ordering::Acquire); // synchronizes with the drop of the last other handle
        while self.take().is_some() {}
        true
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(StatusCode, HeaderMap)>> {
        // Nothing panics while the lock is held.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for InterimResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterimResponses").field("waiting", &self.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_queue_is_bounded_and_refuses_final_statuses() {
        let interim = InterimResponses::new();
        for status in [100, 101, 200, 404] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(interim.send(status, HeaderMap::new()), Err(InterimRefused));
        }
        for n in 0..=MAX_INTERIM {
            let sent = interim.send(StatusCode::EARLY_HINTS, HeaderMap::new());
            assert_eq!(sent.is_ok(), n < MAX_INTERIM);
        }
        let mut again = interim.clone();
        assert!(!again.reset(), "the other handle may still send");
        drop(interim);
        assert!(again.reset() && again.take().is_none());
    }
}
