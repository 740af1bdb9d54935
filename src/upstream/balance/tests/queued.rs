//! Requests that wait in the queue.

use super::*;
use crate::{peer::Deadline, upstream::Priority};

#[tokio::test(start_paused = true)]
async fn request_waits_in_queue_for_an_available_endpoint() {
    let held = Held::default();
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(2).timeout(Duration::from_secs(5)))
        .build([held.endpoint("a").limits(EndpointLimits::new().in_flight(1))], RoundRobin::new());
    let call = || tokio::spawn(balance.clone().oneshot(request()));
    let first = balance.clone().oneshot(request()).await.unwrap();
    let (second, third) = (call(), call());
    tokio::task::yield_now().await;
    assert_eq!(balance.queue_stats().waiting, 2);
    let refused = call().await.unwrap().unwrap_err();
    assert_eq!(queue_error(&refused), Some(&QueueError::Full));
    assert!(Error::find(&refused).is_some_and(Error::is_overloaded), "503");

    tokio::time::advance(Duration::from_secs(1)).await;
    drop(first);
    let second = second.await.unwrap().unwrap();
    assert_eq!(balance.queue_stats().waiting, 1);
    let late = third.await.unwrap().unwrap_err();
    assert_eq!(queue_error(&late), Some(&QueueError::Timeout(Duration::from_secs(5))));
    drop(second);
    let stats = balance.queue_stats();
    assert_eq!((stats.admitted, stats.refused, stats.timed_out), (1, 1, 1));
    assert!(stats.longest_wait >= Duration::from_secs(1) && stats.waiting == 0, "{stats:?}");
    held.end();
    balance.clone().oneshot(request()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn queue_serves_by_priority_then_in_order() {
    let held = Held::default();
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(4))
        .build([held.endpoint("a").limits(EndpointLimits::new().in_flight(1))], RoundRobin::new());
    let mut current = Some(balance.clone().oneshot(request()).await.unwrap());
    let (order, mut calls) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
    let classes = [Priority::Low, Priority::Normal, Priority::High, Priority::Low, Priority::High];
    for (n, priority) in classes.into_iter().enumerate() {
        let (balance, order) = (balance.clone(), order.clone());
        calls.push(tokio::spawn(async move {
            let mut request = request();
            request.extensions_mut().insert(priority);
            let response = balance.oneshot(request).await;
            order.lock().unwrap().push((n, response.is_ok()));
            drop(response);
        }));
        tokio::task::yield_now().await;
    }
    // The last of low priority was displaced by the fifth, of high priority.
    tokio::task::yield_now().await;
    assert_eq!(*order.lock().unwrap(), [(3, false)]);
    current.take();
    for call in calls {
        call.await.unwrap();
    }
    let order = order.lock().unwrap();
    assert_eq!(order[1..], [(2, true), (4, true), (1, true), (0, true)]);
}

#[tokio::test(start_paused = true)]
async fn waiting_request_ends_with_its_deadline_and_leaves_when_dropped() {
    let held = Held::default();
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(1))
        .build([held.endpoint("a").limits(EndpointLimits::new().in_flight(1))], RoundRobin::new());
    let first = balance.clone().oneshot(request()).await.unwrap();
    let mut late = request();
    late.extensions_mut().insert(Deadline(clock::now() + Duration::from_secs(1)));
    let error = balance.clone().oneshot(late).await.unwrap_err();
    assert!(Error::find(&error).is_some_and(Error::is_timeout), "504");

    let gone = tokio::spawn(balance.clone().oneshot(request()));
    tokio::task::yield_now().await;
    assert_eq!(balance.queue_stats().waiting, 1);
    gone.abort();
    assert!(gone.await.is_err());
    assert_eq!(balance.queue_stats().waiting, 0);
    drop(first);
    balance.clone().oneshot(request()).await.unwrap();
}
