//! Models of the counters of a budget.

use crate::{
    Budget,
    sync::model::{model, thread},
};

#[test]
fn leases_stay_within_their_bound_together() {
    model(|| {
        let budget = Budget::builder().soft_limit(100).hard_limit(100).spill_dir("/").build();
        let take = |budget: Budget| {
            let mut lease = budget.memory_lease();
            let taken = lease.try_set(60).is_ok();
            assert!(budget.usage().memory <= 100);
            taken.then_some(lease)
        };
        let other = budget.clone();
        let thread = thread::spawn(move || take(other));
        let (a, b) = (take(budget.clone()), thread.join().unwrap());
        assert!(a.is_some() != b.is_some(), "two leases of 60 exceed 100");
        drop((a, b));
        assert_eq!(budget.usage().memory, 0);
    });
}

#[test]
fn dropped_lease_makes_room_for_another() {
    model(|| {
        let budget = Budget::builder().soft_limit(100).hard_limit(100).spill_dir("/").build();
        let mut lease = budget.memory_lease();
        lease.try_set(60).unwrap();
        let thread = thread::spawn(move || drop(lease));
        let mut other = budget.memory_lease();
        other.try_set(40).unwrap();
        thread.join().unwrap();
        assert_eq!(budget.usage().memory, 40);
        other.try_set(100).unwrap();
    });
}
