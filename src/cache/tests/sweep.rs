//! A lookup beside the end of a sweep.

use std::sync::Barrier;

use super::{
    super::{
        clock::Clock,
        marks::Marks,
        memory::MemoryStore,
        object::Object,
        store::{Changes, Judge, Lookup, Store},
    },
    *,
};

/// A store in memory. After `meets`, the next lookup and the next sweep meet: the sweep begins when the lookup has found its
/// object, and the lookup returns it when the sweep has ended.
#[derive(Debug)]
struct Meeting {
    inner: MemoryStore,
    marks: Arc<Marks>,
    meets: Mutex<bool>,
    found: Barrier,
}

impl Store for Meeting {
    fn get(&self, key: &Key, request: &HeaderMap) -> Lookup {
        let lookup = self.inner.get(key, request);
        if std::mem::take(&mut *self.meets.lock().unwrap()) {
            self.found.wait();
            while self.marks.newest().is_some() {
                std::thread::yield_now();
            }
        }
        lookup
    }

    fn visit(&self, judge: Judge<'_>, selected: &mut dyn FnMut(&Key)) {
        self.found.wait();
        self.inner.visit(judge, selected);
    }

    fn insert(&self, key: &Key, object: &Arc<Object>) {
        self.inner.insert(key, object);
    }

    fn replace(&self, key: &Key, old: &Object, new: &Arc<Object>) {
        self.inner.replace(key, old, new);
    }

    fn remove(&self, key: &Key, object: &Object) {
        self.inner.remove(key, object);
    }

    fn invalidate(&self, key: &Key, purge: Purge) -> Option<Changes> {
        self.inner.invalidate(key, purge)
    }

    fn judge(&self, key: &Key, judge: Judge<'_>) -> Changes {
        self.inner.judge(key, judge)
    }

    fn usage(&self) -> (u64, u64) {
        self.inner.usage()
    }

    fn max_object(&self) -> u64 {
        self.inner.max_object()
    }
}

#[tokio::test]
async fn lookup_beside_the_end_of_a_sweep_obeys_its_invalidation() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60"), ("etag", "\"e\"")]);
    let (clock, marks) = (Clock::new(), Arc::<Marks>::default());
    let store = Arc::new(Meeting {
        inner: MemoryStore::new(1 << 20, 1 << 10, 1, clock),
        marks: marks.clone(),
        meets: Mutex::new(false),
        found: Barrier::new(2),
    });
    let layer = CacheLayer::builder().with_store(store.clone(), clock, marks);
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    assert_eq!((fetch(&site, "/").await, fetch(&site, "/").await), ("1".into(), "1".into()));
    for (purge, expected) in [(Purge::Soft, "2"), (Purge::Hard, "3")] {
        *store.meets.lock().unwrap() = true;
        cache.delete_all(purge);
        assert_eq!(fetch(&site, "/").await, expected);
    }
}
