use super::*;

fn budget(soft: u64, hard: u64, disk: u64) -> Budget {
    Budget::builder().soft_limit(soft).hard_limit(hard).max_disk(disk).build()
}

#[test]
fn budget_grants_shares_up_to_its_bound() {
    let budget = budget(50, 100, 10);
    let (mut a, mut b) = (budget.memory_lease(), budget.memory_lease());
    a.try_set(99).unwrap();
    assert_eq!(b.try_set(2), Err(BudgetExhausted));
    b.try_set(1).unwrap();
    assert!(budget.is_exhausted() && budget.is_above_soft_limit());
    assert_eq!(b.try_set(2), Err(BudgetExhausted));
    assert_eq!((b.bytes(), budget.usage().memory), (1, 100), "as it was");
    a.try_set(49).unwrap();
    assert!(!budget.is_exhausted() && budget.is_above_soft_limit(), "at the soft bound");
    a.try_set(48).unwrap();
    assert!(!budget.is_above_soft_limit());
    let mut disk = budget.disk_lease();
    assert_eq!((disk.try_set(11), disk.try_set(10)), (Err(BudgetExhausted), Ok(())));
    drop((a, b, disk));
    let usage = Usage { memory_peak: 100, disk_peak: 10, ..Usage::default() };
    assert_eq!(budget.usage(), usage);
}

#[test]
fn forced_share_counts_though_it_exceeds_bound() {
    let budget = budget(1, 2, 0);
    let mut lease = budget.memory_lease();
    lease.set(u64::MAX / 2);
    assert_eq!(budget.memory_lease().try_set(1), Err(BudgetExhausted));
    assert_eq!(
        budget.memory_lease().try_set(u64::MAX),
        Err(BudgetExhausted),
        "nothing wraps around"
    );
    lease.set(1);
    assert!(budget.memory_lease().try_set(1).is_ok());
}

#[test]
fn bytes_hold_their_share_as_long_as_any_clone_lives() {
    let budget = Budget::default();
    let mut lease = budget.memory_lease();
    lease.try_set(5).unwrap();
    let bytes = lease.hold(Bytes::from_static(b"hello"));
    let tail = bytes.slice(4..);
    drop(bytes);
    assert_eq!((&tail[..], budget.usage().memory), (&b"o"[..], 5));
    drop(tail);
    assert_eq!(budget.usage().memory, 0);
}

#[test]
fn many_threads_never_pass_the_bound_together() {
    let budget = budget(0, 1000, 0);
    std::thread::scope(|s| {
        for n in 1..=4 {
            let budget = budget.clone();
            s.spawn(move || {
                let mut lease = budget.memory_lease();
                for i in 0..if cfg!(miri) { 50 } else { 20_000 } {
                    let _ = lease.try_set((i * 37 * n) % 500);
                    assert!(budget.usage().memory <= 1000);
                }
            });
        }
    });
    let usage = budget.usage();
    assert!(usage.memory == 0 && usage.memory_peak <= 1000, "{usage:?}");
}

#[test]
#[cfg(feature = "metrics")]
fn budget_exports_its_figures_as_metrics() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let budget = Budget::default();
        let (mut memory, mut disk) = (budget.memory_lease(), budget.disk_lease());
        memory.set(10);
        memory.set(7);
        disk.set(5);
        budget.count_refused();
        budget.count_spilled();
        let mut seen: Vec<_> = snapshotter
            .snapshot()
            .into_vec()
            .into_iter()
            .map(|(key, _, _, value)| {
                let value = match value {
                    DebugValue::Counter(n) => n as f64,
                    DebugValue::Gauge(x) => x.into_inner(),
                    DebugValue::Histogram(_) => panic!("there is none"),
                };
                (key.key().name().to_owned(), value)
            })
            .collect();
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        let seen: Vec<_> = seen.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let want = [
            ("vestibule_budget_disk_bytes", 5.0),
            ("vestibule_budget_memory_bytes", 7.0),
            ("vestibule_budget_refused_total", 1.0),
            ("vestibule_budget_spilled_total", 1.0),
        ];
        assert_eq!(seen, want);
    });
}

#[test]
fn every_metric_is_named_in_the_docs() {
    let names: Vec<_> =
        include_str!("gauges.rs").split('"').filter(|s| s.starts_with("vestibule_")).collect();
    assert_eq!(names.len(), 4);
    // The front page refers to this table.
    let docs = include_str!("../budget.rs");
    for name in &names {
        assert!(docs.contains(&format!("`{name}`")), "{name}");
    }
}
