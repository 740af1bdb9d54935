use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use super::*;

/// Blocks lookups: each one needs a permit to go on. A barrier would let two lookups release each
/// other.
fn permits() -> (mpsc::Sender<()>, impl Fn() + Clone) {
    let (release, permits) = mpsc::channel();
    let permits = Arc::new(Mutex::new(permits));
    (release, move || permits.lock().unwrap().recv().unwrap())
}

#[tokio::test]
async fn callers_of_same_path_share_one_lookup() {
    let (flights, count) = (SingleFlight::default(), Arc::new(AtomicUsize::new(0)));
    let (release, wait) = permits();
    let join = |path: &str| {
        flights.join(
            path,
            (),
            |()| true,
            || {
                let (count, wait) = (count.clone(), wait.clone());
                move || {
                    wait();
                    Ok(count.fetch_add(1, Ordering::SeqCst))
                }
            },
        )
    };
    let all: Vec<_> = (0..100).map(|_| join("/a")).collect();
    release.send(()).unwrap();
    for answer in all {
        assert_eq!(answer.await.unwrap().unwrap(), 0);
    }
    // A later call starts another lookup, and so does a call for another path.
    let (a, b) = (join("/a"), join("/b"));
    release.send(()).unwrap();
    release.send(()).unwrap();
    assert_eq!(a.await.unwrap().unwrap() + b.await.unwrap().unwrap(), 1 + 2);
    assert!(flights.table.lock().is_empty());
}

#[tokio::test]
async fn error_and_panic_of_lookup_reach_every_caller() {
    let flights = SingleFlight::<(), ()>::default();
    let (release, wait) = permits();
    for panics in [false, true] {
        let join = || {
            flights.join(
                "/a",
                (),
                |()| true,
                || {
                    let wait = wait.clone();
                    move || {
                        wait();
                        assert!(!panics, "a panic of the backend");
                        Err(io::Error::from_raw_os_error(5))
                    }
                },
            )
        };
        let (a, b) = (join(), join());
        release.send(()).unwrap();
        for answer in [a, b] {
            match answer.await {
                Ok(answer) => assert_eq!(answer.unwrap_err().raw_os_error(), Some(5)),
                Err(_) => assert!(panics),
            }
        }
        assert!(flights.table.lock().is_empty());
    }
}

#[test]
fn lookup_without_thread_is_error_for_all_waiters() {
    let flights = SingleFlight::<(), ()>::on(BlockingPool::without_threads());
    for _ in 0..2 {
        let join = flights.join("/a", (), |()| true, || || unreachable!("there is no thread"));
        let unshared = flights.run_unshared(|| unreachable!("there is no thread"));
        for mut answer in [join, unshared] {
            let error = answer.try_recv().unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        assert!(flights.table.lock().is_empty());
    }
}

#[tokio::test]
async fn lookup_runs_in_the_runtime_of_its_caller() {
    let flights = SingleFlight::<_, ()>::default();
    let lookup = || Ok(Handle::try_current().is_ok());
    assert!(flights.run_unshared(lookup).await.unwrap().unwrap());
    assert!(flights.join("/a", (), |()| true, || lookup).await.unwrap().unwrap());
}

#[tokio::test]
async fn caller_after_all_others_left_gets_result() {
    let flights = SingleFlight::default();
    for n in 0..1000 {
        drop(flights.join("/a", (), |()| true, || move || Ok(n)));
        let answer = flights.join("/a", (), |()| true, || move || Ok(n)).await;
        assert_eq!(answer.unwrap().unwrap(), n);
    }
}

#[tokio::test]
async fn caller_that_may_not_join_starts_lookup_of_its_own() {
    let flights = SingleFlight::default();
    let (release, wait) = permits();
    let join = |mark: u32| {
        let wait = wait.clone();
        flights.join(
            "/a",
            mark,
            move |of| *of == mark,
            || {
                move || {
                    wait();
                    Ok(mark)
                }
            },
        )
    };
    let (one, two, again) = (join(1), join(2), join(2));
    release.send(()).unwrap();
    release.send(()).unwrap();
    for (answer, want) in [(one, 1), (two, 2), (again, 2)] {
        assert_eq!(answer.await.unwrap().unwrap(), want);
    }
    assert!(flights.table.lock().is_empty());
}

#[tokio::test]
async fn departed_callers_are_not_kept_while_lookup_hangs() {
    let flights = SingleFlight::default();
    let (release, held) = permits();
    let first = flights.join(
        "/a",
        (),
        |()| true,
        || {
            move || {
                held();
                Ok(())
            }
        },
    );
    for _ in 0..100 * PRUNE_THRESHOLD {
        drop(flights.join("/a", (), |()| true, || || unreachable!("a lookup is in flight")));
    }
    let kept = flights.table.lock()["/a"].waiters().as_ref().unwrap().all.len();
    assert!(kept <= 2 * PRUNE_THRESHOLD, "{kept}");
    release.send(()).unwrap();
    first.await.unwrap().unwrap();
}
