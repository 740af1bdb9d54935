//! What can be read and changed of a `Balance` while it works.

use std::{collections::HashSet, sync::Arc};

use super::Balance;
use crate::{
    net::clock,
    policy::{health::HealthOptions, pick::Pick},
    upstream::{
        endpoint::{Endpoint, EndpointHandle, EndpointStatus, Place},
        queue::{QueueOptions, QueueStats},
    },
};

impl<S, P> Balance<S, P> {
    /// The endpoints as they are now.
    pub fn endpoints(&self) -> Arc<[Endpoint<S>]> {
        self.0.set.load().endpoints.clone()
    }

    /// The handle of the endpoint with this key, with which it can be ejected, drained, restored and limited.
    pub fn endpoint(&self, key: &str) -> Option<EndpointHandle> {
        let set = self.0.set.load();
        let endpoint = set.endpoints.iter().find(|e| e.key().as_str() == key)?;
        Some(endpoint.handle().clone())
    }

    /// What a status page shows of each endpoint.
    pub fn status(&self) -> Vec<EndpointStatus> {
        let set = self.0.set.load();
        set.endpoints.iter().map(|endpoint| endpoint.handle().status(endpoint.place())).collect()
    }

    /// The figures of the queue.
    pub fn queue_stats(&self) -> QueueStats {
        self.0.group.queue.stats()
    }

    /// Changes how many requests may wait from now on. Those that wait stay.
    pub fn set_queue(&self, options: QueueOptions) {
        self.0.group.queue.set_options(options);
    }

    /// When endpoints are ejected.
    pub fn health_options(&self) -> HealthOptions {
        **self.0.group.options()
    }

    /// Changes when endpoints are ejected. Ejections that have begun stay as long as they are.
    pub fn set_health_options(&self, options: HealthOptions) {
        self.0.group.set_options(options);
    }
}

impl<S: Clone, P: Pick> Balance<S, P> {
    /// Adds an endpoint, which is in and begins with a [slow start](HealthOptions::slow_start). It replaces one with the same
    /// key, which is returned: what that one has in flight goes on.
    pub fn insert(&self, endpoint: Endpoint<S>) -> Option<Endpoint<S>> {
        let handle = endpoint.handle();
        handle.health().set_draining(false); // it may have been removed before
        handle.health().start_slowly(handle.age(clock::now()), &self.0.group.options());
        self.0.change(|old| {
            let mut endpoints = old.to_vec();
            let at = endpoints.iter().position(|e| e.key() == endpoint.key());
            let replaced = match at {
                Some(at) => {
                    endpoints[at].handle().drain();
                    Some(std::mem::replace(&mut endpoints[at], endpoint))
                }
                None => {
                    endpoints.push(endpoint);
                    None
                }
            };
            (Some(endpoints), replaced)
        })
    }

    /// Removes the endpoint with this key. What it has in flight goes on;
    /// [`idle`](EndpointHandle::idle) waits for the end of it.
    pub fn remove(&self, key: &str) -> Option<Endpoint<S>> {
        self.0.change(|old| {
            let Some(at) = old.iter().position(|e| e.key().as_str() == key) else {
                return (None, None);
            };
            let mut endpoints = old.to_vec();
            let removed = endpoints.remove(at);
            // For requests that have the old set, so that it becomes idle.
            removed.handle().drain();
            (Some(endpoints), Some(removed))
        })
    }

    /// Replaces all endpoints by these. One whose key is in the set already stays, with its service, its
    /// connections, its load and its health; it gets the new one's weight, tier and zone. Others begin with a slow
    /// start. Returns those that were removed. Of several with the same key the first counts.
    pub fn replace(&self, endpoints: impl IntoIterator<Item = Endpoint<S>>) -> Vec<Endpoint<S>> {
        let options = self.health_options();
        self.0.change(|old| {
            let mut keys = HashSet::new();
            let mut new: Vec<Endpoint<S>> = Vec::new();
            for mut endpoint in endpoints {
                if !keys.insert(endpoint.key().clone()) {
                    continue;
                }
                if let Some(known) = old.iter().find(|e| e.key() == endpoint.key()) {
                    let place = endpoint.place().clone();
                    endpoint = known.clone();
                    endpoint.set_place(place);
                } else if !old.is_empty() {
                    let handle = endpoint.handle();
                    handle.health().start_slowly(handle.age(clock::now()), &options);
                }
                new.push(endpoint);
            }
            let is_gone = |e: &&Endpoint<S>| !keys.contains(e.key());
            let removed: Vec<_> = old.iter().filter(is_gone).cloned().collect();
            removed.iter().for_each(|endpoint| endpoint.handle().drain());
            (Some(new), removed)
        })
    }

    /// Changes the weight of the endpoint with this key; 0 counts as 1. Returns whether there is one.
    pub fn set_weight(&self, key: &str, weight: u32) -> bool {
        self.0.change(|old| {
            let mut endpoints = old.to_vec();
            let Some(endpoint) = endpoints.iter_mut().find(|e| e.key().as_str() == key) else {
                return (None, false);
            };
            let place = Place { weight: weight.max(1), ..endpoint.place().clone() };
            endpoint.set_place(place);
            (Some(endpoints), true)
        })
    }

    /// Replaces the policy. One of any type fits into a `Balance` over `Arc<dyn Pick>`.
    pub fn set_policy(&self, policy: P) {
        self.0.change_policy(policy);
    }
}
