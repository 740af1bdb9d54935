//! A body that holds a guard until its end.

use std::task::{Context, Poll, ready};

use http_body::{Body as _, SizeHint};

use super::{Body, PollSegment, Segments};
use crate::{budget::Budget, error::BoxError};

impl Body {
    /// Keeps `guard` until the body has ended, has failed, or is dropped.
    ///
    /// A [complete](Self::is_complete) body drops it at once and is returned unchanged.
    pub(crate) fn with_guard<G: Send + 'static>(self, guard: G) -> Self {
        if self.is_complete() {
            return self;
        }
        Self::segmented(Guarded { body: self, guard: Some(guard), on_error: |_, _| {} })
    }

    /// Keeps `guard` like [`with_guard`](Self::with_guard), and calls `on_error` before it is dropped if the body
    /// fails.
    #[cfg(feature = "upstream")]
    pub(crate) fn with_observer<G: Send + 'static>(
        self,
        guard: G,
        on_error: fn(&mut G, &BoxError),
    ) -> Self {
        if self.is_complete() {
            return self;
        }
        Self::segmented(Guarded { body: self, guard: Some(guard), on_error })
    }
}

struct Guarded<G> {
    body: Body,
    guard: Option<G>,
    on_error: fn(&mut G, &BoxError),
}

impl<G: Send> Segments for Guarded<G> {
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        let segment = ready!(self.body.poll_segment(cx));
        if let (Some(Err(error)), Some(guard)) = (&segment, &mut self.guard) {
            (self.on_error)(guard, error);
        }
        // A reader that knows the length may not poll for the end.
        let has_more = matches!(segment, Some(Ok(_))) && !self.body.is_end_stream();
        if !has_more {
            self.guard = None;
        }
        Poll::Ready(segment)
    }

    fn accept_pipes(&mut self, budget: &Budget) {
        self.body.accept_pipes(budget);
    }

    fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
