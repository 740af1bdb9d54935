//! Tests of contents that are written to disk while they are received.

use std::sync::Mutex as StdMutex;

use tokio_stream::StreamExt;
use tower::util::BoxCloneSyncService;

use super::*;
use crate::{Budget, body::Sender};

type Senders = Arc<StdMutex<Vec<Sender>>>;

/// Returns a function that requests a path, and the senders of the response bodies, which the test writes.
fn channels(
    layer: &CacheLayer,
) -> (impl FnMut(&str) -> tokio::task::JoinHandle<Response>, Senders) {
    let senders = Senders::default();
    let kept = senders.clone();
    let site = BoxCloneSyncService::new(layer.layer(service_fn(move |_: Request| {
        let (sender, body) = Body::channel(None);
        kept.lock().unwrap().push(sender);
        async move {
            let response = Response::builder().header("cache-control", "max-age=1000");
            Ok::<_, BoxError>(response.body(body)?)
        }
    })));
    let get = move |path: &str| {
        let request = Request::get(format!("http://a{path}")).body(Body::empty()).unwrap();
        let site = site.clone();
        tokio::spawn(async move { site.oneshot(request).await.unwrap() })
    };
    (get, senders)
}

fn written_len(dir: &TempDir) -> u64 {
    files(dir, "content").iter().filter_map(|path| fs::metadata(path).ok()).map(|m| m.len()).sum()
}

#[tokio::test]
async fn large_content_is_written_while_it_is_received_and_followers_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget::default();
    let layer = open(&dir, || builder().budget(budget.clone())).await;
    let (mut get, senders) = channels(&layer);
    let whole = content("/2000000");
    let leader = get("/2000000").await.unwrap();
    let sender = senders.lock().unwrap().pop().unwrap();
    let mut pieces = whole.as_bytes().chunks(50_000);
    let mut send = |n: usize| {
        for piece in pieces.by_ref().take(n) {
            sender.send(Bytes::copy_from_slice(piece)).unwrap();
        }
    };
    send(20);
    until(|| written_len(&dir) >= 900_000).await;
    assert_eq!((files(&dir, "head").len(), layer.handle().stats().keys), (0, 0));
    until(|| budget.usage().memory < 300_000).await;
    let follower = get("/2000000").await.unwrap();
    let mut follower = follower.into_body();
    let mut got = follower.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
    send(20);
    sender.finish(None);
    got.extend_from_slice(&follower.collect().await.unwrap().to_bytes());
    assert!(got == whole.as_bytes(), "the follower");
    // The leader has read nothing so far.
    assert!(leader.into_body().collect().await.unwrap().to_bytes() == whole.as_bytes());
    written(&layer, 1).await;
    let stored = get("/2000000").await.unwrap();
    assert_eq!(stored.body().as_file().map(FileSlice::len), Some(2_000_000));
    assert!(stored.into_body().collect().await.unwrap().to_bytes() == whole.as_bytes());
    assert!(senders.lock().unwrap().is_empty());
    until(|| budget.usage().memory == 0).await;
}

#[tokio::test]
async fn truncated_or_invalidated_or_too_large_content_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, || builder().max_disk_object(600_000)).await;
    let (mut get, senders) = channels(&layer);
    for how in ["truncated", "invalidated", "too large"] {
        let response = get("/500000").await.unwrap();
        let sender = senders.lock().unwrap().pop().unwrap();
        sender.send(Bytes::from(vec![7; 500_000])).unwrap();
        until(|| written_len(&dir) == 500_000).await;
        let mut len = 500_000;
        match how {
            "truncated" => drop(sender),
            "invalidated" => {
                layer.handle().delete_all(Purge::Hard);
                sender.finish(None);
            }
            _ => {
                // The response is still read from the file, which has no name any more.
                sender.send(Bytes::from(vec![7; 100_001])).unwrap();
                until(|| files(&dir, "content").is_empty()).await;
                sender.finish(None);
                len = 600_001;
            }
        }
        let got = response.into_body().collect().await.map(|body| body.to_bytes());
        assert_eq!(got.ok().map(|got| got.len()), (how != "truncated").then_some(len), "{how}");
        until(|| files(&dir, "content").is_empty()).await;
        assert_eq!((files(&dir, "head").len(), layer.handle().stats().keys), (0, 0), "{how}");
    }
}

#[tokio::test]
async fn spools_have_a_common_bound() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, || builder().disk_capacity(800_000).max_disk_object(200_000)).await;
    let (mut get, senders) = channels(&layer);
    let first = get("/1").await.unwrap();
    let second = get("/2").await.unwrap();
    for sender in senders.lock().unwrap().iter() {
        // All spools together may use a quarter of the capacity.
        sender.send(Bytes::from(vec![7; 120_000])).unwrap();
    }
    until(|| layer.handle().stats().not_stored == 1).await;
    senders.lock().unwrap().drain(..).for_each(|sender| sender.finish(None));
    for response in [first, second] {
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 120_000);
    }
    written(&layer, 1).await;
    until(|| files(&dir, "content").len() == 1).await;
}

#[tokio::test]
async fn complete_content_that_the_budget_has_no_memory_for_is_written_to_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget::builder().soft_limit(4000).hard_limit(5000).build();
    let layer = open(&dir, || builder().budget(budget.clone())).await;
    assert_eq!(source(&layer, "/9000").await, "origin");
    written(&layer, 1).await;
    until(|| files(&dir, "head").len() == 1 && budget.usage().memory == 0).await;
    assert_eq!(written_len(&dir), 9000);
    assert_eq!(source(&layer, "/9000").await, "cache");
}

#[tokio::test]
async fn cache_status_does_not_say_stored_of_a_spooled_content_that_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, || builder().cache_status("c")).await;
    for (end, announced, is_stored) in [
        ("complete", None, true),
        ("complete", Some("20000"), true),
        ("complete", Some("20001"), false),
        ("complete", Some("19999"), false),
        ("incomplete", Some("19999"), false),
        ("incomplete", Some("20000"), true),
        ("failed", None, false),
    ] {
        let site = layer.layer(service_fn(move |_: Request| async move {
            let piece = Ok(Bytes::from(vec![7; 20_000]));
            let piece = tokio_stream::once(piece);
            let body = match end {
                "complete" => Body::from_stream(piece),
                "failed" => Body::from_stream(piece.chain(tokio_stream::once(Err("failed")))),
                _ => Body::from_stream(piece.chain(tokio_stream::pending())),
            };
            let mut response = Response::builder().header("cache-control", "max-age=1000");
            if let Some(announced) = announced {
                response = response.header("content-length", announced);
            }
            Ok::<_, BoxError>(response.body(body)?)
        }));
        let request = Request::get(format!("http://a/{end}/{announced:?}").replace('"', ""));
        let response = site.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.headers()["cache-status"].to_str().unwrap();
        assert_eq!(status.ends_with("; stored"), is_stored, "{end} {announced:?}: {status}");
        if end != "incomplete" {
            assert_eq!(
                response.into_body().collect().await.is_ok(),
                is_stored,
                "{end} {announced:?}"
            );
        }
    }
}
