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
        Self::segmented(Guarded { body: self, guard: Some(guard), on_end: |_, _| {} })
    }

    /// Keeps `guard` like [`with_guard`](Self::with_guard), and calls `on_end` before it is dropped when the body has
    /// ended or has failed.
    #[cfg(feature = "upstream")]
    pub(crate) fn with_observer<G: Send + 'static>(
        self,
        mut guard: G,
        on_end: fn(&mut G, Result<(), &BoxError>),
    ) -> Self {
        if self.is_complete() {
            on_end(&mut guard, Ok(()));
            return self;
        }
        Self::segmented(Guarded { body: self, guard: Some(guard), on_end })
    }
}

struct Guarded<G> {
    body: Body,
    guard: Option<G>,
    on_end: fn(&mut G, Result<(), &BoxError>),
}

impl<G: Send> Segments for Guarded<G> {
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        let segment = ready!(self.body.poll_segment(cx));
        // A reader that knows the length may not poll for the end.
        let has_more = matches!(segment, Some(Ok(_))) && !self.body.is_end_stream();
        if !has_more && let Some(mut guard) = self.guard.take() {
            let result = if let Some(Err(error)) = &segment { Err(error) } else { Ok(()) };
            (self.on_end)(&mut guard, result);
        }
        Poll::Ready(segment)
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        self.body.drive(cx);
    }

    fn accept_pipes(&mut self, budget: &Budget) {
        self.body.accept_pipes(budget);
    }

    fn accept_sent_pipes(&self) {
        self.body.accept_sent_pipes();
    }

    fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
