use super::*;

/// The numbers of waiting, admitted, refused and timed-out requests of each priority.
fn figures(queue: &Queue) -> [[u64; 4]; 3] {
    queue.stats().by_priority.map(|class| {
        let PriorityStats { waiting, admitted, refused, timed_out } = class;
        [waiting as u64, admitted, refused, timed_out]
    })
}

/// Has two high requests, of which one displaces a low one, and one of each priority that is refused.
fn run(queue: &Queue) {
    let (first, _) = queue.enter(Priority::High).unwrap();
    let (last, _) = queue.enter(Priority::Low).unwrap();
    assert_eq!(figures(queue), [[1, 0, 0, 0], [0; 4], [1, 0, 0, 0]]);
    let (second, _) = queue.enter(Priority::High).unwrap();
    for class in CLASSES {
        assert_eq!(queue.enter(class).unwrap_err(), QueueError::Full);
    }
    drop(last);
    assert_eq!(figures(queue), [[2, 0, 1, 0], [0, 0, 1, 0], [0, 0, 2, 0]]);
    queue.wake();
    first.admit();
    second.time_out();
}

#[test]
fn queue_counts_its_requests_by_priority() {
    let queue = Queue::new(QueueOptions::new(2));
    run(&queue);
    assert_eq!(figures(&queue), [[0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 2, 0]]);
    let stats = queue.stats();
    assert_eq!((stats.waiting, stats.admitted, stats.refused, stats.timed_out), (0, 1, 4, 1));
    assert_eq!((stats.bound, stats.timeout), (2, BALANCE_QUEUE_TIMEOUT));
}

#[test]
#[cfg(feature = "metrics")]
fn queue_exports_its_figures_as_metrics() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || run(&Queue::new(QueueOptions::new(2))));
    let entries = snapshotter.snapshot().into_vec();
    let mut seen: Vec<String> = entries
        .into_iter()
        .map(|(key, _, _, value)| {
            let value = match value {
                DebugValue::Counter(n) => n.to_string(),
                DebugValue::Gauge(x) => x.to_string(),
                DebugValue::Histogram(waits) => format!("{} waits", waits.len()),
            };
            let key = key.key();
            let class = key.labels().map(|label| label.value()).collect::<String>();
            format!("{} {class} {value}", key.name().trim_start_matches("vestibule_balance_queue_"))
        })
        .collect();
    seen.sort();
    let want = [
        "refused_total high 1",
        "refused_total low 2",
        "refused_total normal 1",
        "timed_out_total high 1",
        "wait_seconds high 1 waits",
        "waiting high 0",
        "waiting low 0",
    ];
    assert_eq!(seen, want);
}
