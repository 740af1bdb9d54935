//! Loom models of permits that are taken and released while the limit changes.

use super::*;
use crate::sync::model::{model, thread};

/// Asserts that no permit is lost or invented: the free ones and those in use equal the limit plus the pending
/// removals.
fn assert_complete(permits: &Permits, out: usize) {
    let existing = permits.limit() + permits.pending_removal.load(Relaxed);
    assert_eq!(permits.available.available_permits() + out, existing);
}

#[test]
fn permit_returned_during_resize_is_neither_lost_nor_doubled() {
    for limits in [[1, 3], [3, 1]] {
        model(move || {
            let permits = Arc::new(Permits::new(2));
            let (a, b) = (permits.try_acquire().unwrap(), permits.try_acquire().unwrap());
            let returns = thread::spawn(move || drop(a));
            limits.into_iter().for_each(|limit| permits.resize(limit));
            returns.join().unwrap();
            assert_complete(&permits, 1);
            drop(b);
            assert_complete(&permits, 0);
        });
    }
}

/// A permit that is returned while the limit falls is removed, and not given to a request above the limit.
#[test]
fn fallen_limit_admits_no_request_above_it() {
    model(|| {
        let permits = Arc::new(Permits::new(2));
        let (a, b) = (permits.try_acquire().unwrap(), permits.try_acquire().unwrap());
        let returns = thread::spawn(move || drop(a));
        permits.resize(1);
        returns.join().unwrap();
        assert!(permits.try_acquire().is_none(), "two are in flight");
        drop(b);
        assert!(permits.try_acquire().is_some());
        assert_complete(&permits, 0);
    });
}

#[test]
fn concurrent_resizes_add_up() {
    model(|| {
        let permits = Arc::new(Permits::new(2));
        let permit = permits.try_acquire().unwrap();
        let other = permits.clone();
        let resizes = thread::spawn(move || other.resize(1));
        permits.resize(3);
        resizes.join().unwrap();
        assert_complete(&permits, 1);
        drop(permit);
        assert_complete(&permits, 0);
    });
}

#[test]
fn limit_admits_no_more_than_its_permits() {
    model(|| {
        let permits = Arc::new(Permits::new(1));
        let inside = Arc::new(AtomicUsize::new(0));
        let enter = |permits: Arc<Permits>, inside: Arc<AtomicUsize>| {
            if let Some(permit) = permits.try_acquire() {
                assert_eq!(inside.fetch_add(1, Relaxed), 0, "two are inside");
                inside.fetch_sub(1, Relaxed);
                drop(permit);
            }
        };
        let (places2, inside2) = (permits.clone(), inside.clone());
        let other = thread::spawn(move || enter(places2, inside2));
        enter(permits.clone(), inside);
        other.join().unwrap();
        assert_complete(&permits, 0);
    });
}

#[test]
fn queue_is_never_longer_than_its_bound() {
    model(|| {
        let permits = Arc::new(Permits::new(1));
        let other = permits.clone();
        let waits = thread::spawn(move || other.try_enqueue(1).is_ok());
        let waiter = permits.try_enqueue(1);
        let both = waits.join().unwrap() && waiter.is_ok();
        assert!(permits.waiting() <= 1 && (!both || permits.waiting() == 1));
        drop(waiter);
        assert_eq!(permits.waiting(), 0);
    });
}
