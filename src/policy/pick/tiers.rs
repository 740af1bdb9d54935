//! `Tiers`: the best tier, or the local zone, before all others.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Candidate, Candidates, Pick, Prepared, Source,
    rng::{Rng, scale},
};

/// Picks an endpoint of the best tier with an eligible one, by another policy: primaries before backups, or the local
/// zone before the others. Each tier has its own policy.
///
/// By default a tier gets all requests while one of its endpoints is eligible, like nginx's `backup`. With
/// [`spill_below`](Self::spill_below) some of the requests go to the next tier when a part of the tier is not
/// available, so that the remaining endpoints are not overloaded.
///
/// ```
/// use vestibule::policy::pick::{Candidate, Candidates, Pick, RoundRobin, Tiers};
///
/// let mut servers = ["a", "b", "backup"].map(Candidate::new);
/// servers[2].tier = 1;
/// let policy = Tiers::new(RoundRobin::new);
/// assert_eq!([(); 3].map(|()| policy.pick(Candidates::new(&servers)).unwrap()), [0, 1, 0]);
/// (servers[0].is_available, servers[1].is_available) = (false, false);
/// assert_eq!(policy.pick(Candidates::new(&servers)), Some(2));
/// ```
pub struct Tiers<P> {
    new_policy: Box<dyn Fn() -> P + Send + Sync>,
    /// The policies of all tiers so far. They are kept when the set changes.
    policies: Mutex<BTreeMap<u8, Arc<P>>>,
    /// The local zone, if zones are the tiers.
    zone: Option<Box<str>>,
    spill_below: u8,
    rng: Rng,
}

/// The endpoints by tier, best first.
struct Groups<P>(Vec<Group<P>>);

struct Group<P> {
    tier: u8,
    policy: Arc<P>,
    members: Vec<usize>,
    is_uniform: bool,
    prepared: Prepared,
}

/// The endpoints of one group as a source.
struct Members<'a> {
    source: &'a dyn Source,
    indexes: &'a [usize],
    is_uniform: bool,
}

impl<P: Pick + 'static> Tiers<P> {
    /// Creates tiers by [`Candidate::tier`]. The function creates the policy of a tier.
    pub fn new(policy: impl Fn() -> P + Send + Sync + 'static) -> Self {
        Self {
            new_policy: Box::new(policy),
            policies: Mutex::default(),
            zone: None,
            spill_below: 0,
            rng: Rng::new(),
        }
    }

    /// Creates two tiers: the endpoints of this zone, and all others.
    pub fn local_zone(
        zone: impl Into<Box<str>>,
        policy: impl Fn() -> P + Send + Sync + 'static,
    ) -> Self {
        Self { zone: Some(zone.into()), ..Self::new(policy) }
    }

    fn policy_of(&self, tier: u8) -> Arc<P> {
        let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        policies.entry(tier).or_insert_with(|| Arc::new((self.new_policy)())).clone()
    }

    /// Sets the available share of a tier, in percent, below which requests go to the next tier: with 70, and 35 %
    /// available, half of them. Up to 100. Default 0: only if none is available. Each pick checks all endpoints of
    /// the tier.
    #[must_use]
    pub fn spill_below(mut self, percent: u8) -> Self {
        self.spill_below = percent.min(100);
        self
    }

    fn tier_of(&self, candidate: &Candidate<'_>) -> u8 {
        match &self.zone {
            None => candidate.tier,
            Some(zone) => u8::from(candidate.zone != &**zone),
        }
    }

    fn groups(&self, candidates: Candidates<'_>) -> Groups<P> {
        let mut groups: Vec<Group<P>> = Vec::new();
        for (index, candidate) in candidates.iter().enumerate() {
            let tier = self.tier_of(&candidate);
            let at = groups.partition_point(|group| group.tier < tier);
            if groups.get(at).is_none_or(|group| group.tier != tier) {
                let (members, prepared) = (Vec::new(), Prepared::default());
                let policy = self.policy_of(tier);
                groups.insert(at, Group { tier, policy, members, is_uniform: false, prepared });
            }
            groups[at].members.push(index);
        }
        for group in &mut groups {
            let weight = candidates.get(group.members[0]).weight;
            group.is_uniform = group.members.iter().all(|&i| candidates.get(i).weight == weight);
            group.prepared = group.policy.prepare(candidates.of(&group.source(candidates), None));
        }
        Groups(groups)
    }

    fn pick_from(&self, groups: &Groups<P>, candidates: Candidates<'_>) -> Option<usize> {
        let pick = |group: &Group<P>, is_last: bool| {
            let source = group.source(candidates);
            let members = candidates.of(&source, Some(&group.prepared));
            if !is_last && self.spills(members) {
                return None;
            }
            group.members.get(group.policy.pick(members)?).copied()
        };
        let picked = groups.0.iter().find_map(|group| pick(group, false));
        // If every tier spills, the first one gets the request.
        picked.or_else(|| groups.0.iter().find_map(|group| pick(group, true)))
    }

    /// Returns whether this request goes to the next tier.
    fn spills(&self, members: Candidates<'_>) -> bool {
        if self.spill_below == 0 {
            return false;
        }
        let available = members.iter().filter(|c| c.is_available && !c.is_draining).count();
        let (have, want) = (available * 100, members.len() * usize::from(self.spill_below));
        have < want && scale(self.rng.next(), want) >= have
    }
}

impl<P: Pick + 'static> Pick for Tiers<P> {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        match candidates.prepared::<Groups<P>>() {
            Some(groups) => self.pick_from(groups, candidates),
            None => self.pick_from(&self.groups(candidates), candidates),
        }
    }

    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        Prepared::new(self.groups(candidates))
    }

    fn set_cookie(&self, candidates: Candidates<'_>, picked: usize) -> Option<http::HeaderValue> {
        let groups = candidates.prepared::<Groups<P>>()?;
        let (group, at) = groups.0.iter().find_map(|group| {
            Some((group, group.members.iter().position(|&member| member == picked)?))
        })?;
        let source = group.source(candidates);
        group.policy.set_cookie(candidates.of(&source, Some(&group.prepared)), at)
    }
}

impl<P> Group<P> {
    fn source<'a>(&'a self, candidates: Candidates<'a>) -> Members<'a> {
        let (source, is_uniform) = (candidates.source(), self.is_uniform);
        Members { source, indexes: &self.members, is_uniform }
    }
}

impl Source for Members<'_> {
    fn count(&self) -> usize {
        self.indexes.len()
    }

    fn candidate(&self, index: usize) -> Candidate<'_> {
        self.source.candidate(self.indexes[index])
    }

    fn is_uniform(&self) -> bool {
        self.is_uniform
    }
}

impl<P> fmt::Debug for Tiers<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiers")
            .field("zone", &self.zone)
            .field("spill_below", &self.spill_below)
            .finish_non_exhaustive()
    }
}
