//! Methods of `Balance` that read and change it at run time.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{Balance, EmptySet};
use crate::{
    net::clock,
    policy::{health::HealthOptions, pick::Pick},
    upstream::{
        endpoint::{Endpoint, EndpointHandle, EndpointStatus, Place},
        queue::{QueueOptions, QueueStats},
    },
};

impl<S, P> Balance<S, P> {
    /// Returns the current endpoints.
    pub fn endpoints(&self) -> Arc<[Endpoint<S>]> {
        self.0.set.load().endpoints.clone()
    }

    /// Returns the handle of the endpoint with this key, which can eject, drain, restore and limit it.
    pub fn endpoint(&self, key: &str) -> Option<EndpointHandle> {
        let set = self.0.set.load();
        let endpoint = set.endpoints.iter().find(|e| e.key().as_str() == key)?;
        Some(endpoint.handle().clone())
    }

    /// Returns the status of each endpoint, for a status page.
    pub fn status(&self) -> Vec<EndpointStatus> {
        let set = self.0.set.load();
        set.endpoints.iter().map(|endpoint| endpoint.handle().status(endpoint.place())).collect()
    }

    /// Returns the policy.
    pub fn policy(&self) -> Arc<P> {
        self.0.set.load().policy.clone()
    }

    /// Returns the figures and options of the queue.
    pub fn queue_stats(&self) -> QueueStats {
        self.0.group.queue.stats()
    }

    /// Changes the options of the queue. Waiting requests keep theirs.
    pub fn set_queue(&self, options: QueueOptions) {
        self.0.group.queue.set_options(options);
    }

    /// Returns how a request is handled when there is no endpoint.
    pub fn empty(&self) -> EmptySet {
        match self.0.waits_if_empty.load(Relaxed) {
            false => EmptySet::Fail,
            true => EmptySet::Wait,
        }
    }

    /// Changes how a request is handled when there is no endpoint, also one that waits.
    pub fn set_empty(&self, empty: EmptySet) {
        self.0.waits_if_empty.store(empty == EmptySet::Wait, Relaxed);
        self.0.group.queue.wake();
    }

    /// Returns the options of ejections.
    pub fn health_options(&self) -> HealthOptions {
        *self.0.group.options()
    }

    /// Changes the options of ejections. Current ejections keep their end.
    pub fn set_health_options(&self, options: HealthOptions) {
        self.0.change_options(options);
    }
}

impl<S: Clone, P: Pick> Balance<S, P> {
    /// Adds an endpoint, which begins with a [slow start](HealthOptions::slow_start). An endpoint with the same key
    /// is replaced and returned; its requests continue.
    ///
    /// A clone of an endpoint of the set, for example with another tier, shares its load and health, which do not
    /// change.
    pub fn insert(&self, endpoint: Endpoint<S>) -> Option<Endpoint<S>> {
        let options = self.health_options();
        self.0.change(|old, leaving| {
            let mut endpoints = old.to_vec();
            let known = endpoints.iter_mut().find(|e| e.key() == endpoint.key());
            if known.as_ref().is_none_or(|known| !known.handle().is_same(endpoint.handle())) {
                join(endpoint.handle(), Some(&options));
            }
            let replaced = match known {
                Some(known) => {
                    let replaced = std::mem::replace(known, endpoint);
                    if !replaced.handle().is_same(known.handle()) {
                        leaving.push(replaced.handle().clone());
                    }
                    Some(replaced)
                }
                None => {
                    endpoints.push(endpoint);
                    None
                }
            };
            (Some(endpoints), replaced)
        })
    }

    /// Removes the endpoint with this key. Its requests continue; [`idle`](EndpointHandle::idle) waits for their end.
    ///
    /// It [drains](EndpointHandle::drain), and so do its clones in the sets of other balancers, since they share its health.
    /// For a server in several balancers, give each an endpoint of its own, with a clone of the service.
    pub fn remove(&self, key: &str) -> Option<Endpoint<S>> {
        self.0.change(|old, leaving| {
            let Some(at) = old.iter().position(|e| e.key().as_str() == key) else {
                return (None, None);
            };
            let mut endpoints = old.to_vec();
            let removed = endpoints.remove(at);
            leaving.push(removed.handle().clone());
            (Some(endpoints), Some(removed))
        })
    }

    /// Replaces all endpoints. An endpoint whose key is already in the set keeps its service, connections, limits, load
    /// and health, and gets the new weight, tier and zone. Others begin with a slow start. Returns the removed endpoints.
    /// Of several with the same key, the first one is used.
    pub fn replace(&self, endpoints: impl IntoIterator<Item = Endpoint<S>>) -> Vec<Endpoint<S>> {
        let options = self.health_options();
        self.0.change(|old, leaving| {
            let known: HashMap<_, _> = old.iter().map(|e| (e.key(), e)).collect();
            let mut keys = HashSet::new();
            let mut new: Vec<Endpoint<S>> = Vec::new();
            for mut endpoint in endpoints {
                if !keys.insert(endpoint.key().clone()) {
                    continue;
                }
                if let Some(&known) = known.get(endpoint.key()) {
                    let place = endpoint.place().clone();
                    endpoint = known.clone();
                    endpoint.set_place(place);
                } else {
                    join(endpoint.handle(), Some(&options).filter(|_| !old.is_empty()));
                }
                new.push(endpoint);
            }
            let is_gone = |e: &&Endpoint<S>| !keys.contains(e.key());
            let removed: Vec<_> = old.iter().filter(is_gone).cloned().collect();
            leaving.extend(removed.iter().map(|endpoint| endpoint.handle().clone()));
            (Some(new), removed)
        })
    }

    /// Gives the endpoint with the same key the weight, tier and zone of this one, or otherwise adds this one. Returns
    /// `false` if there are `max` others.
    pub(in crate::upstream) fn update_or_insert(&self, endpoint: Endpoint<S>, max: usize) -> bool {
        let options = self.health_options();
        self.0.change(|old, _| {
            let mut endpoints = old.to_vec();
            if let Some(known) = endpoints.iter_mut().find(|e| e.key() == endpoint.key()) {
                known.set_place(endpoint.place().clone());
            } else if endpoints.len() < max {
                join(endpoint.handle(), Some(&options).filter(|_| !old.is_empty()));
                endpoints.push(endpoint);
            } else {
                return (None, false);
            }
            (Some(endpoints), true)
        })
    }

    /// Changes the weight of the endpoint with this key; 0 counts as 1. Returns whether there is one.
    pub fn set_weight(&self, key: &str, weight: u32) -> bool {
        self.0.change(|old, _| {
            let mut endpoints = old.to_vec();
            let Some(endpoint) = endpoints.iter_mut().find(|e| e.key().as_str() == key) else {
                return (None, false);
            };
            let place = Place { weight: weight.max(1), ..endpoint.place().clone() };
            endpoint.set_place(place);
            (Some(endpoints), true)
        })
    }

    /// Replaces the policy. A `Balance` over `Arc<dyn Pick>` takes a policy of any type.
    pub fn set_policy(&self, policy: P) {
        self.0.change_policy(policy);
    }
}

/// Prepares an endpoint that joins a set. With options it begins with a slow start.
fn join(handle: &EndpointHandle, options: Option<&HealthOptions>) {
    let health = handle.health();
    health.set_draining(false); // it may have been removed before
    if let Some(options) = options {
        health.start_slowly(handle.age(clock::now()), options);
    }
}
