//! `Set`: an immutable snapshot of the endpoints of a `Balance`.

use std::{
    collections::HashSet,
    sync::{Arc, MutexGuard, PoisonError},
};

use super::{Shared, view::Members};
use crate::{
    policy::{
        health::HealthOptions,
        pick::{Candidates, Pick, Prepared, Source},
    },
    upstream::endpoint::{Endpoint, EndpointHandle},
};

/// The endpoints, the policy, and its prepared data.
pub(super) struct Set<S, P> {
    pub(super) endpoints: Arc<[Endpoint<S>]>,
    pub(super) is_uniform: bool,
    pub(super) policy: Arc<P>,
    pub(super) options: Arc<HealthOptions>,
    prepared: Arc<Prepared>,
}

impl<S, P> Set<S, P> {
    /// Returns the same set with other options.
    fn with_options(&self, options: Arc<HealthOptions>) -> Self {
        Self {
            endpoints: self.endpoints.clone(),
            is_uniform: self.is_uniform,
            policy: self.policy.clone(),
            options,
            prepared: self.prepared.clone(),
        }
    }
}

impl<S, P: Pick> Set<S, P> {
    /// # Panics
    /// If two endpoints have the same key.
    pub(super) fn new(
        endpoints: Arc<[Endpoint<S>]>,
        policy: Arc<P>,
        options: Arc<HealthOptions>,
    ) -> Self {
        let mut keys = HashSet::new();
        for endpoint in endpoints.iter() {
            assert!(keys.insert(endpoint.key()), "two endpoints have the key {}", endpoint.key());
        }
        let weight = |e: &Endpoint<S>| e.place().weight;
        let is_uniform = endpoints.windows(2).all(|w| weight(&w[0]) == weight(&w[1]));
        let members = Members { endpoints: &endpoints, is_uniform };
        let prepared = Arc::new(policy.prepare(Candidates::new(&members)));
        Self { endpoints, is_uniform, policy, options, prepared }
    }

    /// Returns the candidates of a source over these endpoints.
    pub(super) fn candidates<'a>(&'a self, source: &'a dyn Source) -> Candidates<'a> {
        Candidates::new(source).with_prepared(&self.prepared)
    }
}

impl<S, P: Pick> Shared<S, P> {
    /// Replaces the endpoints by the result of `change`; with `None` they stay. `change` adds the handles of endpoints
    /// that leave the set to its second argument.
    pub(super) fn change<R>(
        &self,
        change: impl FnOnce(&[Endpoint<S>], &mut Vec<EndpointHandle>) -> (Option<Vec<Endpoint<S>>>, R),
    ) -> R {
        let _one_at_a_time = self.lock();
        let set = self.set.load_full();
        let mut leaving = Vec::new();
        let (endpoints, result) = change(&set.endpoints, &mut leaving);
        if let Some(endpoints) = endpoints {
            self.publish(endpoints.into(), set.policy.clone(), &leaving);
        }
        result
    }

    /// Replaces the policy.
    pub(super) fn change_policy(&self, policy: P) {
        let _one_at_a_time = self.lock();
        let endpoints = self.set.load().endpoints.clone();
        self.publish(endpoints, Arc::new(policy), &[]);
    }

    fn publish(&self, endpoints: Arc<[Endpoint<S>]>, policy: Arc<P>, leaving: &[EndpointHandle]) {
        let handles: Vec<_> = endpoints.iter().map(|endpoint| endpoint.handle().clone()).collect();
        let options = self.group.options();
        // Before a request can pick a new endpoint.
        handles.iter().for_each(|handle| handle.set_options(options.clone()));
        self.set.store(Arc::new(Set::new(endpoints, policy, options)));
        // For requests with the old set, so that these endpoints become idle. Not earlier: until the new set is stored,
        // requests need them.
        leaving.iter().for_each(EndpointHandle::drain);
        self.group.set_members(handles); // wakes queued requests
    }
}

impl<S, P> Shared<S, P> {
    /// Changes the options of the health of all endpoints.
    pub(super) fn change_options(&self, options: HealthOptions) {
        let _one_at_a_time = self.lock();
        let options = Arc::new(options);
        self.set.store(Arc::new(self.set.load().with_options(options.clone())));
        self.group.set_options(&options);
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // A panic of a policy leaves the set unchanged.
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
