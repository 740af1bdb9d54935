use std::{
    convert::Infallible,
    fs,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::mpsc;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    body::Body,
    policy::pick::RoundRobin,
    upstream::{Balance, BalanceBuilder, EmptySet, Endpoint, ErasedService, QueueOptions},
};

async fn next<D: Discover + Unpin>(source: &mut D) -> Option<Result<Update, String>> {
    let next = poll_fn(|cx| Pin::new(&mut *source).poll_next(cx)).await?;
    Some(next.map_err(|e| e.to_string()))
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn set(targets: &[&str]) -> Option<Result<Update, String>> {
    Some(Ok(Update::Set(targets.iter().map(|text| target(text)).collect())))
}

/// A source that yields the updates that the test sends.
struct Told(mpsc::UnboundedReceiver<Result<Update, BoxError>>);

impl Stream for Told {
    type Item = Result<Update, BoxError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

fn endpoint(target: &Target) -> Endpoint<ErasedService> {
    let service = service_fn(|_: http::Request<Body>| async {
        Ok::<_, Infallible>(http::Response::new(Body::empty()))
    });
    Endpoint::new(target.key(), ErasedService::new(service))
}

fn keys(balance: &Balance<ErasedService>) -> Vec<String> {
    balance.endpoints().iter().map(|e| e.key().to_string()).collect()
}

/// Waits until the endpoints are these.
async fn until(balance: &Balance<ErasedService>, expected: &[&str]) {
    while keys(balance) != expected {
        tokio::task::yield_now().await;
    }
}

#[test]
fn target_needs_an_address_and_known_options() {
    for bad in ["", "a", "a:1 weight", "a:1 weight=x", "a:1 weight=-1", "a:1 tier=256", "a:1 x=1"] {
        let error = bad.parse::<Target>().unwrap_err().to_string();
        assert!(error.contains(&format!("'{bad}'")), "{error}");
    }
    let lines = "# servers\n\n a:1 weight=3 # the large one\r\nunix:/b tier=1\n";
    let targets = Target::parse_lines(lines).unwrap();
    assert_eq!(targets, [target("a:1 weight=3"), target("unix:/b tier=1")]);
    let ftp = "ftp://a:1".parse::<Target>().unwrap_err().to_string();
    assert!(ftp.contains("https://host, h2://host:port"), "{ftp}");
}

#[tokio::test]
async fn fixed_source_yields_its_targets_once() {
    let mut source = Box::pin(fixed([target("a:1"), target("b:2")]));
    assert_eq!(next(&mut source).await, set(&["a:1", "b:2"]));
    assert_eq!(next(&mut source).await, None);
}

#[tokio::test]
async fn file_source_follows_changes_and_reports_each_error_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("servers");
    let mut source = FileSource::with_interval(&path, Duration::from_millis(5));
    let error = next(&mut source).await.unwrap().unwrap_err();
    assert!(error.contains("cannot read") && error.contains("servers"), "{error}");
    fs::write(&path, "a:1\nb:2 weight=2\n").unwrap();
    assert_eq!(next(&mut source).await, set(&["a:1", "b:2 weight=2"]));
    // Replaced, as by a configuration system.
    fs::write(dir.path().join("new"), "b:2\n").unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(next(&mut source).await, set(&["b:2"]));
    fs::write(dir.path().join("bad"), "b:2\nnonsense\n").unwrap();
    fs::rename(dir.path().join("bad"), &path).unwrap();
    let error = next(&mut source).await.unwrap().unwrap_err();
    assert!(error.contains("'nonsense'"), "{error}");
    fs::write(dir.path().join("long"), vec![b'#'; MAX_FILE as usize + 1]).unwrap();
    fs::rename(dir.path().join("long"), &path).unwrap();
    let error = next(&mut source).await.unwrap().unwrap_err();
    assert!(error.contains("larger than 1 MiB"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn balance_follows_source_and_keeps_last_good_set() {
    let (tell, told) = mpsc::unbounded_channel();
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(1))
        .empty(EmptySet::Wait)
        .build([], RoundRobin::new());
    let task = tokio::spawn(balance.follow(Told(told), FollowOptions::new(), endpoint));
    let early = tokio::spawn(balance.clone().oneshot(http::Request::new(Body::empty())));
    let targets = ["a:1 weight=3 tier=1 zone=z", "b:2"].map(target);
    tell.send(Ok(Update::Set(targets.into()))).unwrap();
    until(&balance, &["a:1", "b:2"]).await;
    early.await.unwrap().unwrap();
    let status = &balance.status()[0];
    assert_eq!((status.weight, status.tier, &*status.zone), (3, 1, "z"));

    // Neither an error nor an empty set changes anything.
    tell.send(Err("down".into())).unwrap();
    tell.send(Ok(Update::Set(vec![]))).unwrap();
    tell.send(Ok(Update::Insert(target("c:3")))).unwrap();
    until(&balance, &["a:1", "b:2", "c:3"]).await;
    // One that is told again stays itself, with another weight.
    let before = balance.endpoint("b:2").unwrap();
    before.drain();
    tell.send(Ok(Update::Insert(target("b:2 weight=9")))).unwrap();
    while balance.status()[1].weight != 9 {
        tokio::task::yield_now().await;
    }
    assert_eq!(keys(&balance), ["a:1", "b:2", "c:3"], "in its place");
    assert_eq!(balance.status()[1].phase, crate::policy::health::Phase::Draining);
    for key in ["a:1", "b:2", "c:3"] {
        tell.send(Ok(Update::Remove(key.into()))).unwrap();
    }
    until(&balance, &["c:3"]).await;
    drop(tell);
    task.await.unwrap();
    assert_eq!(keys(&balance), ["c:3"], "the last good set");
}

#[tokio::test]
async fn last_endpoint_is_removed_when_the_source_inserts_another() {
    let insert = |text: &str| Update::Insert(target(text));
    let remove = |key: &str| Update::Remove(key.into());
    let a = || Update::Set(vec![target("a:1")]);
    let (one, many) = (FollowOptions::new().max_targets(1), FollowOptions::new());
    for (options, updates, expected) in [
        (many, vec![a(), remove("a:1")], &["a:1"][..]),
        (many, vec![a(), remove("a:1"), insert("b:2")], &["b:2"]),
        // There is room for the other one.
        (one, vec![a(), remove("a:1"), insert("b:2")], &["b:2"]),
        (many, vec![a(), remove("a:1"), insert("b:2"), insert("a:1")], &["b:2", "a:1"]),
        // The source has it again.
        (many, vec![a(), remove("a:1"), insert("a:1"), insert("b:2")], &["a:1", "b:2"]),
        (many, vec![a(), remove("a:1"), a(), insert("b:2")], &["a:1", "b:2"]),
        (many, vec![a(), remove("a:1"), Update::Set(vec![]), insert("b:2")], &["b:2"]),
    ] {
        let (tell, told) = mpsc::unbounded_channel();
        let balance = Balance::round_robin([]);
        let task = tokio::spawn(balance.follow(Told(told), options, endpoint));
        for update in updates {
            tell.send(Ok(update)).unwrap();
        }
        drop(tell);
        task.await.unwrap();
        assert_eq!(keys(&balance), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_of_a_source_keep_endpoints_that_others_insert() {
    let (tell, told) = mpsc::unbounded_channel();
    let balance = Balance::round_robin([endpoint(&target("a:1"))]);
    let task = tokio::spawn(balance.follow(Told(told), FollowOptions::new(), endpoint));
    for n in 1..=500 {
        tell.send(Ok(Update::Insert(target(&format!("a:1 weight={n}"))))).unwrap();
        balance.insert(endpoint(&target(&format!("b:{n}"))));
    }
    drop(tell);
    task.await.unwrap();
    assert_eq!(keys(&balance).len(), 501);
}

#[tokio::test]
async fn follow_bounds_the_set_and_ends_with_the_balancer() {
    let (tell, told) = mpsc::unbounded_channel();
    let balance = Balance::round_robin([]);
    let options = FollowOptions::new().max_targets(2).apply_empty(true);
    let task = tokio::spawn(balance.follow(Told(told), options, endpoint));
    tell.send(Ok(Update::Set(["a:1", "b:2", "c:3"].map(target).into()))).unwrap();
    tell.send(Ok(Update::Insert(target("d:4")))).unwrap();
    until(&balance, &["a:1", "b:2"]).await;
    tell.send(Ok(Update::Set(vec![]))).unwrap();
    until(&balance, &[]).await;
    drop(balance);
    task.await.unwrap();
    assert!(tell.is_closed());
}

#[tokio::test]
async fn known_target_of_a_set_is_not_created_again() {
    let (tell, told) = mpsc::unbounded_channel();
    let balance = Balance::round_robin([]);
    let created = Arc::new(Mutex::new(Vec::new()));
    let keys = created.clone();
    let task = tokio::spawn(balance.follow(Told(told), FollowOptions::new(), move |target| {
        keys.lock().unwrap().push(target.key().to_string());
        endpoint(target)
    }));
    for targets in [&["a:1", "b:2"][..], &["b:2 weight=3 tier=1 zone=z", "c:3"]] {
        let targets = targets.iter().map(|text| target(text)).collect();
        tell.send(Ok(Update::Set(targets))).unwrap();
    }
    drop(tell);
    task.await.unwrap();
    assert_eq!(*created.lock().unwrap(), ["a:1", "b:2", "c:3"]);
    let status = &balance.status()[0];
    assert_eq!((status.weight, status.tier, &*status.zone), (3, 1, "z"));
}
