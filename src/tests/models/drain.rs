//! Models of `Drain`: no wake-up is lost and no slot is used twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Wake, Waker},
};

use crate::{
    net::Drain,
    sync::model::{model, thread},
};

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn connection_that_registers_during_begin_is_woken() {
    model(|| {
        let drain = Drain::new();
        let mut watch = drain.watch();
        let begins = thread::spawn({
            let drain = drain.clone();
            move || drain.begin()
        });
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let draining = watch.poll_draining(&Context::from_waker(&waker));
        begins.join().unwrap();
        assert!(draining || woken.0.load(SeqCst), "the wake-up is lost");
        assert!(watch.poll_draining(&Context::from_waker(&waker)));
        drop(watch);
        assert!(drain.is_empty());
    });
}

#[test]
fn abort_is_never_reverted_by_begin() {
    model(|| {
        let drain = Drain::new();
        let watch = drain.watch();
        let begins = thread::spawn({
            let drain = drain.clone();
            move || drain.begin()
        });
        drain.abort();
        begins.join().unwrap();
        assert!(watch.is_aborted());
    });
}

#[test]
fn request_to_shed_is_claimed_by_exactly_one_connection() {
    model(|| {
        let drain = Drain::new();
        let (a, b) = (drain.watch(), drain.watch());
        drain.request_shed(1);
        let other = thread::spawn(move || b.claim_shed());
        let claimed = a.claim_shed();
        assert!(claimed != other.join().unwrap(), "exactly one of them");
    });
}

#[test]
fn slot_of_ended_connection_goes_to_one_other() {
    model(|| {
        let drain = Drain::new();
        let ended = drain.watch();
        let thread = thread::spawn({
            let drain = drain.clone();
            move || {
                drop(ended);
                drain.watch()
            }
        });
        let (a, b) = (drain.watch(), thread.join().unwrap());
        assert_eq!(drain.len(), 2);
        drop((a, b));
        assert!(drain.is_empty());
    });
}
