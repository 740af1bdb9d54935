//! `Balance::follow`: applies the updates of a source to a balancer.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::pin,
};

use super::{Discover, Target, Update};
use crate::{
    policy::pick::Pick,
    upstream::{Balance, Endpoint, EndpointKey},
};

/// Default maximum number of endpoints of a source: 10,000.
pub const MAX_TARGETS: usize = 10_000;

/// Options of [`Balance::follow`](super::super::Balance::follow).
///
/// ```
/// use vestibule::upstream::discover::FollowOptions;
///
/// let options = FollowOptions::new().max_targets(50).apply_empty(true);
/// # drop(options);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct FollowOptions {
    max_targets: usize,
    applies_empty: bool,
}

impl FollowOptions {
    /// Creates the options with the defaults that are documented at each method.
    pub const fn new() -> Self {
        Self { max_targets: MAX_TARGETS, applies_empty: false }
    }

    /// Sets the maximum number of endpoints. Further ones are ignored, with a warning. Default [`MAX_TARGETS`].
    pub const fn max_targets(mut self, n: usize) -> Self {
        self.max_targets = n;
        self
    }

    /// Sets whether an empty source removes the last endpoint. Default `false`: the last set remains, since an empty
    /// source is more likely to be broken than all servers are to be removed.
    pub const fn apply_empty(mut self, on: bool) -> Self {
        self.applies_empty = on;
        self
    }
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, P> Balance<S, P>
where
    S: Clone + Send + Sync + 'static,
    P: Pick + 'static,
{
    /// Applies the updates of `source`; `endpoint` creates the endpoint of a new target. Spawn the future as a task: it
    /// ends when the stream ends, or when the last clone of this balancer is dropped.
    ///
    /// An endpoint that remains keeps its connections, load and health. A removed one finishes its requests. An error
    /// of the source is logged as a warning with the target `vestibule::upstream`, and changes nothing. The same
    /// applies to a source without endpoints, unless [`apply_empty`](FollowOptions::apply_empty) is set: an endpoint whose
    /// removal would leave none is removed when the source inserts another one.
    pub fn follow<D, F>(
        &self,
        source: D,
        options: FollowOptions,
        endpoint: F,
    ) -> impl Future<Output = ()> + Send + use<D, F, S, P>
    where
        D: Discover + 'static,
        F: Fn(&Target) -> Endpoint<S> + Send + 'static,
    {
        let (weak, mut is_open) = self.downgrade();
        async move {
            let mut source = pin!(source);
            let mut withheld = None;
            loop {
                let update = tokio::select! {
                    update = poll_fn(|cx| source.as_mut().poll_next(cx)) => update,
                    _ = is_open.changed() => return,
                };
                let (Some(update), Some(balance)) = (update, weak.upgrade()) else { return };
                match update {
                    Ok(update) => balance.apply(update, options, &mut withheld, &endpoint),
                    Err(error) => {
                        tracing::warn!(target: "vestibule::upstream", %error, "endpoints not discovered");
                    }
                }
            }
        }
    }

    /// Applies an update. `withheld` is the endpoint that the source has removed and that remains in use, since it was the
    /// last one.
    fn apply(
        &self,
        update: Update,
        options: FollowOptions,
        withheld: &mut Option<EndpointKey>,
        endpoint: &impl Fn(&Target) -> Endpoint<S>,
    ) {
        let place = |endpoint: Endpoint<S>, target: &Target| {
            endpoint.weight(target.weight).tier(target.tier).zone(&target.zone)
        };
        let make = |target: &Target| place(endpoint(target), target);
        match update {
            Update::Set(targets) if targets.is_empty() && !options.applies_empty => {
                tracing::warn!(target: "vestibule::upstream", "the source has no endpoints; the last ones remain in use");
            }
            Update::Set(mut targets) => {
                let surplus = targets.len().saturating_sub(options.max_targets);
                if surplus > 0 {
                    tracing::warn!(target: "vestibule::upstream", surplus, "too many endpoints");
                    targets.truncate(options.max_targets);
                }
                *withheld = None;
                // An endpoint that stays is not created again: a source may send thousands for each change of one.
                let current = self.endpoints();
                let known: HashMap<_, _> = current.iter().map(|e| (e.key(), e)).collect();
                self.replace(targets.iter().map(|target| match known.get(&target.key()) {
                    Some(&known) => place(known.clone(), target),
                    None => make(target),
                }));
            }
            Update::Insert(target) => {
                let endpoint = make(&target);
                let is_other = |key: &EndpointKey| {
                    key != endpoint.key() && self.endpoint(key.as_str()).is_some()
                };
                let removed = withheld.take().filter(is_other);
                let max = options.max_targets.saturating_add(usize::from(removed.is_some()));
                if !self.update_or_insert(endpoint, max) {
                    *withheld = removed;
                    tracing::warn!(target: "vestibule::upstream", surplus = 1, "too many endpoints");
                } else if let Some(key) = removed {
                    self.remove(key.as_str());
                }
            }
            Update::Remove(key) => {
                let is_last = self.endpoints().len() == 1 && self.endpoint(key.as_str()).is_some();
                if is_last && !options.applies_empty {
                    tracing::warn!(target: "vestibule::upstream", "the source has no endpoints; the last one remains in use");
                    *withheld = Some(key);
                } else {
                    self.remove(key.as_str());
                }
            }
        }
    }
}
