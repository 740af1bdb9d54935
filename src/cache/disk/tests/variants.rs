//! Tests of keys with several variants.

use std::sync::Mutex as StdMutex;

use super::*;

/// A site whose responses have this `Vary` and content.
struct Site {
    answer: Arc<StdMutex<(&'static str, &'static str)>>,
}

impl Site {
    fn new() -> Self {
        Self { answer: Arc::default() }
    }

    /// Requests the site with these fields. Returns the content.
    async fn get(&self, layer: &CacheLayer, fields: &[(&str, &str)]) -> String {
        let answer = self.answer.clone();
        let site = layer.layer(service_fn(move |_: Request| {
            let (vary, content) = *answer.lock().unwrap();
            let response = Response::builder().header("cache-control", "max-age=1000");
            let response = response.header("vary", vary).body(Body::from(content));
            std::future::ready(response.map_err(BoxError::from))
        }));
        let mut request = Request::get("http://a/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let response = site.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }
}

#[tokio::test]
async fn newest_of_overlapping_variants_is_used_after_a_restart() {
    let (a, b) = ([("x-a", "1")], [("x-b", "1")]);
    for i in 0..4 {
        let (dir, site) = (tempfile::tempdir().unwrap(), Site::new());
        let layer = open(&dir, builder).await;
        *site.answer.lock().unwrap() = ("x-a", "older");
        assert_eq!(site.get(&layer, &a).await, "older");
        // The ids decide about the order of the scan.
        for n in 0..i {
            source(&layer, &format!("/{n}/5")).await;
        }
        *site.answer.lock().unwrap() = ("x-b", "newer");
        assert_eq!(site.get(&layer, &b).await, "newer");
        until(|| files(&dir, "head").len() == 2 + i).await;
        drop(layer);
        let layer = open(&dir, builder).await;
        let both = [a[0], b[0]];
        // A request that selects the older one alone brings it into memory.
        for (fields, want) in [(&a[..], "older"), (&both, "newer"), (&a, "older"), (&both, "newer")]
        {
            assert_eq!(site.get(&layer, fields).await, want, "{fields:?} after {i}");
        }
    }
}

/// Requests the variant with this number. Returns where it came from.
async fn ask(layer: &CacheLayer, i: usize, path: &str) -> &'static str {
    let (response, from) = get(layer, path, &[("accept-language", &format!("l{i}"))]).await;
    response.into_body().collect().await.unwrap();
    from
}

#[tokio::test]
async fn variants_of_a_key_that_exceed_a_shard_in_memory_leave_the_newest_ones() {
    // One shard, for four of the largest objects.
    let layer = builder().capacity(60_000).build();
    for i in 0..8 {
        assert_eq!(ask(&layer, i, "/9000").await, "origin");
        assert_eq!(ask(&layer, i, "/9000").await, "cache", "{i}");
    }
    for (i, want) in [(6, "cache"), (5, "cache"), (0, "origin")] {
        assert_eq!(ask(&layer, i, "/9000").await, want, "{i}");
    }
}

#[tokio::test]
async fn variants_of_a_key_that_exceed_a_shard_on_disk_leave_the_newest_ones() {
    let dir = tempfile::tempdir().unwrap();
    // One shard, for four of the largest objects.
    let builder = || builder().disk_capacity(400_000).max_disk_object(100_000);
    let layer = open(&dir, builder).await;
    for i in 0..8 {
        assert_eq!(ask(&layer, i, "/90000").await, "origin");
        written(&layer, 1).await;
        until(|| files(&dir, "head").len() == 3.min(i + 1)).await;
        assert_eq!(ask(&layer, i, "/90000").await, "cache", "{i}");
    }
    until(|| files(&dir, "content").len() == 3).await;
    drop(layer);
    let layer = open(&dir, builder).await;
    for (i, want) in [(7, "cache"), (6, "cache"), (5, "cache"), (0, "origin")] {
        assert_eq!(ask(&layer, i, "/90000").await, want, "{i}");
    }
}
