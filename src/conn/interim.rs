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

/// Where a service puts interim responses to a request, which are sent to the client before the final one: 103
/// Early Hints (RFC 8297), or 102. It is in the extensions of each request from the server's driver.
///
/// A client of ours relays those of its server: [`upstream`](crate::upstream) passes them on, without
/// the fields of the server's hop. They are sent when the service's future has been polled, so a future that is
/// polled by another task sends them with some delay. A client of HTTP/1.0 gets none.
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
    /// Whether some wait: almost no request has any, so the driver looks here before it locks.
    some_wait: AtomicBool,
}

/// As many interim responses wait as may, or the status is not of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the interim response cannot be sent")]
pub struct InterimRefused;

impl InterimResponses {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a response.
    ///
    /// # Errors
    /// [`InterimRefused`] if [`MAX_INTERIM`] wait, or for a status that is final, or 100 or 101, which belong to
    /// the drivers.
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

    /// Takes the oldest.
    pub(crate) fn take(&self) -> Option<(StatusCode, HeaderMap)> {
        if !self.0.some_wait.load(Ordering::Acquire) {
            return None;
        }
        let mut queue = self.lock();
        let oldest = queue.pop_front();
        self.0.some_wait.store(!queue.is_empty(), Ordering::Release);
        oldest
    }

    /// Removes all, for another request. Returns `false` if the last request still has a handle.
    pub(crate) fn reset(&mut self) -> bool {
        // No other handle can appear: this is the only one.
        if Arc::strong_count(&self.0) > 1 {
            return false;
        }
        fence(Ordering::Acquire); // what the last of the other handles has done
        while self.take().is_some() {}
        true
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(StatusCode, HeaderMap)>> {
        // Nothing panics while it is held.
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
    fn interim_responses_are_bounded_and_only_interim() {
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
