//! Loom models of permits that are taken and released while the limit changes.

use loom::{model, thread};

use super::*;

/// Asserts that no permit is lost or invented: the free ones and those in use equal the limit plus the pending
/// removals.
fn assert_complete(places: &Places, out: usize) {
    let there = places.limit() + places.owed.load(Relaxed);
    assert_eq!(places.free.available_permits() + out, there);
}

#[test]
fn permit_returned_during_resize_is_neither_lost_nor_doubled() {
    for limits in [[1, 3], [3, 1]] {
        model(move || {
            let places = Arc::new(Places::new(2));
            let (a, b) = (places.try_take().unwrap(), places.try_take().unwrap());
            let returns = thread::spawn(move || drop(a));
            limits.into_iter().for_each(|limit| places.resize(limit));
            returns.join().unwrap();
            assert_complete(&places, 1);
            drop(b);
            assert_complete(&places, 0);
        });
    }
}

#[test]
fn concurrent_resizes_add_up() {
    model(|| {
        let places = Arc::new(Places::new(2));
        let permit = places.try_take().unwrap();
        let other = places.clone();
        let resizes = thread::spawn(move || other.resize(1));
        places.resize(3);
        resizes.join().unwrap();
        assert_complete(&places, 1);
        drop(permit);
        assert_complete(&places, 0);
    });
}

#[test]
fn limit_admits_no_more_than_its_permits() {
    model(|| {
        let places = Arc::new(Places::new(1));
        let inside = Arc::new(AtomicUsize::new(0));
        let enter = |places: Arc<Places>, inside: Arc<AtomicUsize>| {
            if let Some(permit) = places.try_take() {
                assert_eq!(inside.fetch_add(1, Relaxed), 0, "two are inside");
                inside.fetch_sub(1, Relaxed);
                drop(permit);
            }
        };
        let (places2, inside2) = (places.clone(), inside.clone());
        let other = thread::spawn(move || enter(places2, inside2));
        enter(places.clone(), inside);
        other.join().unwrap();
        assert_complete(&places, 0);
    });
}

#[test]
fn queue_is_never_longer_than_its_bound() {
    model(|| {
        let places = Arc::new(Places::new(1));
        let other = places.clone();
        let waits = thread::spawn(move || other.queue(1).is_ok());
        let waiter = places.queue(1);
        let both = waits.join().unwrap() && waiter.is_ok();
        assert!(places.waiting() <= 1 && (!both || places.waiting() == 1));
        drop(waiter);
        assert_eq!(places.waiting(), 0);
    });
}
