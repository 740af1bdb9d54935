//! The policies of the simulation, the requests that they distinguish, and what each of them promises.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use http::{
    HeaderValue, Request,
    header::{COOKIE, HeaderName},
};

use super::{
    events::{Event, Events},
    server::{View, tier, zone},
};
use crate::policy::pick::{
    Candidates, ConsistentHash, First, LeastOutstanding, PeakEwma, Pick, PowerOfTwoChoices,
    Prepared, Random, RequestHead, RequestKey, RoundRobin, Source, Sticky, Tiers,
};

/// The number of policies.
pub(super) const POLICIES: u64 = 12;

/// Keys of requests, and sessions.
pub(super) const KEYS: usize = 32;

const KEY: HeaderName = HeaderName::from_static("x-key");

/// What a policy promises beyond the invariants of all.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Promise {
    Nothing,
    /// A key goes to its own server, unless that cannot take it.
    Owner,
    /// The same, and unless its load is at the bound.
    BoundedOwner,
    Session,
    Tier,
    Zone,
    First,
}

/// The tables of policies that hash keys, by the number of servers.
#[derive(Default)]
pub(super) struct Tables(Mutex<HashMap<(u64, usize), Prepared>>);

/// A policy and its requests.
pub(super) struct Policy {
    policy: Box<dyn Pick>,
    prepared: Prepared,
    promise: Promise,
    requests: Vec<Request<()>>,
    /// The server of each key or session.
    own: Vec<Option<usize>>,
}

/// A server that a policy has picked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picked {
    pub(super) index: usize,
    /// The request's session is bound to it.
    pub(super) is_session: bool,
}

fn create(seed: u64) -> (Box<dyn Pick>, Promise) {
    let key = RequestKey::header(KEY);
    match seed % POLICIES {
        0 => (Box::new(RoundRobin::new()), Promise::Nothing),
        1 => (Box::new(Random::with_seed(seed)), Promise::Nothing),
        2 => (Box::new(LeastOutstanding::new()), Promise::Nothing),
        3 => (Box::new(PowerOfTwoChoices::with_seed(seed)), Promise::Nothing),
        4 => (Box::new(PeakEwma::with_seed(seed)), Promise::Nothing),
        5 => (Box::new(ConsistentHash::ring(key)), Promise::Owner),
        6 => (Box::new(ConsistentHash::ring(key).bounded_load(125)), Promise::BoundedOwner),
        7 => (Box::new(ConsistentHash::maglev(key)), Promise::Owner),
        8 => (Box::new(Sticky::new([7; 16], RoundRobin::new())), Promise::Session),
        9 => (Box::new(Tiers::new(RoundRobin::new)), Promise::Tier),
        10 => {
            let policy = move || PeakEwma::with_seed(seed);
            (Box::new(Tiers::local_zone("here", policy)), Promise::Zone)
        }
        _ => (Box::new(First::new()), Promise::First),
    }
}

/// Returns what a policy prepares for a set. Tables of hashes depend on the set alone and take long, so that runs share them.
fn prepare(
    policy: &dyn Pick,
    promise: Promise,
    seed: u64,
    view: &View<'_>,
    tables: &Tables,
) -> Prepared {
    let prepare = || policy.prepare(Candidates::new(view));
    if !matches!(promise, Promise::Owner | Promise::BoundedOwner) {
        return prepare();
    }
    let mut tables = tables.0.lock().unwrap_or_else(PoisonError::into_inner);
    tables.entry((seed % POLICIES, view.count())).or_insert_with(prepare).clone()
}

impl Policy {
    /// Creates the policy of a seed, for servers that are all healthy and idle.
    pub(super) fn new(seed: u64, view: &View<'_>, tables: &Tables) -> Self {
        let (policy, promise) = create(seed);
        let prepared = prepare(&*policy, promise, seed, view, tables);
        let is_keyed = matches!(promise, Promise::Owner | Promise::BoundedOwner | Promise::Session);
        let request = |key: usize| {
            let mut request = Request::new(());
            request.headers_mut().insert(KEY, HeaderValue::from(key));
            request
        };
        let requests: Vec<_> = (0..if is_keyed { KEYS } else { 1 }).map(request).collect();
        let has_owners = matches!(promise, Promise::Owner | Promise::BoundedOwner);
        let owner = |request| {
            let candidates = Candidates::new(view).for_request(RequestHead::of(request));
            policy.pick(candidates.with_prepared(&prepared)).filter(|_| has_owners)
        };
        let own = requests.iter().map(owner).collect();
        Self { policy, prepared, promise, requests, own }
    }

    /// Picks a server for a request with this key, and checks the promise of the policy.
    pub(super) fn pick(
        &mut self,
        view: &View<'_>,
        key: usize,
        events: &mut Events,
    ) -> Option<Picked> {
        let key = key % self.requests.len();
        let candidates = Candidates::new(view).for_request(RequestHead::of(&self.requests[key]));
        let candidates = candidates.with_prepared(&self.prepared);
        let index = self.policy.pick(candidates)?;
        let own = self.own[key];
        match self.promise {
            Promise::Nothing => {}
            Promise::Owner | Promise::BoundedOwner => {
                let is_free = own.is_some_and(|own| view.is_eligible(own));
                let is_bounded = self.promise == Promise::BoundedOwner;
                assert!(own == Some(index) || !is_free || is_bounded, "{own:?} is the key's own");
                events.count_if(own != Some(index) && !is_free, Event::KeyMoved);
                events.count_if(own != Some(index) && is_free, Event::LoadBounded);
            }
            Promise::Session => {
                let is_free = own.is_some_and(|own| view.candidate(own).is_eligible_for_session());
                assert!(own == Some(index) || !is_free, "{own:?} is the session's own");
                events.count_if(own == Some(index), Event::Session);
                events.count_if(
                    own == Some(index) && view.servers[index].is_draining,
                    Event::DrainingSession,
                );
            }
            Promise::Tier => {
                let is_better = |i: usize| tier(i) < tier(index) && view.is_eligible(i);
                assert!(!(0..view.count()).any(is_better), "a server of a better tier is free");
                events.count_if(tier(index) > 0, Event::Backup);
            }
            Promise::Zone => {
                let is_elsewhere = zone(index) != "here";
                let is_better = |i: usize| is_elsewhere && zone(i) == "here" && view.is_eligible(i);
                assert!(!(0..view.count()).any(is_better), "a server of the zone is free");
                events.count_if(is_elsewhere, Event::Backup);
            }
            Promise::First => {
                let is_earlier = (0..index).any(|other| view.is_eligible(other));
                assert!(!is_earlier, "an earlier server is free");
                events.count_if(index > 0, Event::NotFirst);
            }
        }
        let cookie = self.policy.set_cookie(candidates, index);
        let is_session = self.promise == Promise::Session && own == Some(index);
        assert_eq!(cookie.is_some(), self.promise == Promise::Session && !is_session);
        if let Some(cookie) = cookie {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            self.requests[key].headers_mut().insert(COOKIE, pair.parse().unwrap());
            self.own[key] = Some(index);
        }
        Some(Picked { index, is_session })
    }
}
