use super::*;

/// The numbers of waiting, admitted, refused, timed-out and abandoned requests of each priority.
fn figures(queue: &Queue) -> [[u64; 5]; 3] {
    queue.stats().by_priority.map(|class| {
        let PriorityStats { waiting, admitted, refused, timed_out, abandoned } = class;
        [waiting as u64, admitted, refused, timed_out, abandoned]
    })
}

/// Has two high requests, of which one displaces a low one, one of each priority that is refused, and two that leave.
fn run(queue: &Queue) {
    let (first, _) = queue.enter(Priority::High).unwrap();
    let (last, _) = queue.enter(Priority::Low).unwrap();
    assert_eq!(figures(queue), [[1, 0, 0, 0, 0], [0; 5], [1, 0, 0, 0, 0]]);
    let (second, _) = queue.enter(Priority::High).unwrap();
    for class in CLASSES {
        assert_eq!(queue.enter(class).unwrap_err(), QueueError::Full);
    }
    drop(last);
    assert_eq!(figures(queue), [[2, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 2, 0, 0]]);
    queue.wake();
    first.admit();
    second.time_out();
    queue.enter(Priority::Normal).unwrap().0.leave(); // there is no endpoint left
    drop(queue.enter(Priority::Low).unwrap()); // its client has gone
}

#[test]
fn queue_counts_its_requests_by_priority() {
    let queue = Queue::new(QueueOptions::new(2));
    run(&queue);
    assert_eq!(figures(&queue), [[0, 1, 1, 1, 0], [0, 0, 1, 0, 1], [0, 0, 2, 0, 1]]);
    let stats = queue.stats();
    assert_eq!((stats.waiting, stats.admitted, stats.refused, stats.timed_out), (0, 1, 4, 1));
    assert_eq!(stats.abandoned, 2);
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
        "abandoned_total low 1",
        "abandoned_total normal 1",
        "refused_total high 1",
        "refused_total low 2",
        "refused_total normal 1",
        "timed_out_total high 1",
        "wait_seconds high 1 waits",
        "waiting high 0",
        "waiting low 0",
        "waiting normal 0",
    ];
    assert_eq!(seen, want);
}

#[tokio::test]
async fn requests_that_were_called_in_vain_keep_their_order() {
    let queue = Queue::new(QueueOptions::new(9));
    let mut tickets: Vec<_> =
        [(); 3].map(|()| queue.enter(Priority::Normal).unwrap().0).into_iter().collect();
    for _ in 0..2 {
        queue.wake();
        queue.wake();
        for ticket in &mut tickets[..2] {
            ticket.called().await.unwrap();
            assert!(ticket.is_first());
        }
        tickets[..2].iter_mut().for_each(Ticket::requeue);
        assert!(tickets[0].is_first() && !tickets[1].is_first() && !tickets[2].is_first());
    }
    // A place that is not used is passed on.
    queue.wake();
    drop(tickets.remove(0));
    tickets[0].called().await.unwrap();
    tickets.remove(0).admit();
    tickets[0].called().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn capacity_is_not_lost_while_all_requests_are_called() {
    let queue = Queue::new(QueueOptions::new(9));
    let mut ticket = queue.enter(Priority::Normal).unwrap().0;
    queue.wake();
    ticket.called().await.unwrap();
    queue.wake(); // between its pick, which fails, and its return
    ticket.requeue();
    ticket.called().await.unwrap();
    ticket.requeue();
    let again = tokio::time::timeout(Duration::from_secs(1), ticket.called());
    again.await.expect_err("there was one call more");
}

#[tokio::test(start_paused = true)]
async fn request_that_ignores_its_call_does_not_hold_up_others() {
    let queue = Queue::new(QueueOptions::new(9));
    let _stalled = queue.enter(Priority::Normal).unwrap().0;
    let second = queue.enter(Priority::Normal).unwrap().0;
    queue.wake();
    assert!(!second.is_first());
    tokio::time::advance(CALL_TIMEOUT).await;
    assert!(second.is_first());
}
