//! Tests of reads from disk: they are shared, and their memory is bounded by the budget.

use super::{
    writes::{object, open_store},
    *,
};
use crate::Budget;

#[tokio::test]
async fn concurrent_requests_share_one_read_and_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = "/10000";
    let layer = open(&dir, builder).await;
    source(&layer, path).await;
    written(&layer, 1).await;
    drop(layer);
    let budget = Budget::default();
    let layer = open(&dir, || builder().budget(budget.clone())).await;
    let mut responses = Vec::new();
    let request_all = async {
        let requests = (0..500).map(|_| {
            let layer = layer.clone();
            tokio::task::spawn_local(async move { get(&layer, path, &[]).await })
        });
        for request in requests.collect::<Vec<_>>() {
            let (response, from) = request.await.unwrap();
            assert_eq!(from, "cache");
            responses.push(response.into_body().collect().await.unwrap().to_bytes());
        }
    };
    tokio::task::LocalSet::new().run_until(request_all).await;
    assert!(responses.iter().all(|body| *body == content(path)));
    assert!(responses.iter().all(|body| body.as_ptr() == responses[0].as_ptr()), "one copy");
    assert_eq!(budget.usage().memory_peak, 10_000);
    drop((layer, responses));
    until(|| budget.usage().memory == 0).await;
}

#[tokio::test]
async fn content_that_the_budget_has_no_memory_for_is_sent_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = "/10000";
    let layer = open(&dir, builder).await;
    source(&layer, path).await;
    written(&layer, 1).await;
    drop(layer);
    let budget = Budget::builder().soft_limit(9000).hard_limit(9000).build();
    let layer = open(&dir, || builder().budget(budget.clone())).await;
    for _ in 0..2 {
        let (response, from) = get(&layer, path, &[]).await;
        assert_eq!((from, response.body().as_file().map(FileSlice::len)), ("cache", Some(10_000)));
        assert!(response.into_body().collect().await.unwrap().to_bytes() == content(path));
    }
    assert_eq!(budget.usage().memory_peak, 0);
}

#[tokio::test]
async fn fields_from_before_an_update_are_not_kept_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, _) = open_store(&dir);
    disk.loaded().await;
    let inner = &disk.inner;
    let key = Key::new("http", "a", "/", None).unwrap();
    let (old, mut new) = (object(1, b"content"), Object::clone(&object(1, b"content")));
    inner.files.write_content(1, b"content").unwrap();
    inner.files.write_head(1, &head::encode(&key, &old, 7).unwrap()).unwrap();
    inner.files.commit(1).unwrap();
    let meta = Meta::of(&old, 7);
    inner.index.insert(&key, &meta);
    // The update is in the index, and its head is not written yet.
    new.revision = 2;
    inner.index.insert(&key, &Meta::of(&new, 7));
    assert_eq!(inner.read(&key, &meta).unwrap().revision, 2);
    assert!(inner.memory.find(&key, 1).is_none());
    inner.files.write_head(1, &head::encode(&key, &new, 7).unwrap()).unwrap();
    inner.files.commit(1).unwrap();
    assert!(inner.read(&key, &meta).is_some() && inner.memory.find(&key, 1).is_some());
}
