use std::fs;

use super::{
    super::{
        backend::View,
        entry::FilePath,
        root::{Root, Symlinks, backend_file::MAX_IN_MEMORY},
    },
    *,
};

/// A directory with which entries of every kind are made.
struct Disk {
    directory: tempfile::TempDir,
    root: Root,
}

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path().to_owned(), Symlinks::Inside);
        Self { directory, root }
    }

    /// Makes an entry with `len` bytes of content.
    fn file(&self, len: u64) -> Arc<Entry> {
        let content = vec![b'x'; usize::try_from(len).unwrap()];
        fs::write(self.directory.path().join("f"), content).unwrap();
        self.entry("f")
    }

    fn missing(&self) -> Arc<Entry> {
        self.entry("missing")
    }

    fn entry(&self, name: &str) -> Arc<Entry> {
        let config = crate::files::lookup_config::LookupConfig::default();
        let path = FilePath::parse(name, &config).unwrap();
        Arc::new(Entry::load(View::blocking(&self.root), &path, &config).unwrap())
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Recomputes the sum of the sizes of all slots.
fn counted(cache: &Cache) -> Size {
    let table = cache.lock();
    let sum = table
        .slots
        .iter()
        .fold(Size::default(), |sum, (path, slot)| sum.plus(Size::of(path, &slot.entry)));
    assert_eq!(sum, table.sum);
    sum
}

#[test]
fn stale_entry_is_served_for_a_minute_if_nothing_can_be_looked_up() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits::default(), SECOND);
    assert!(cache.stale("/f", now).is_none());
    cache.insert("/f", disk.file(1), now, 0);
    let last = now + MAX_STALE - Duration::from_nanos(1);
    assert!(cache.stale("/f", last).is_some());
    assert!(cache.stale("/f", now + MAX_STALE).is_none());
    assert!(cache.get("/f", last).is_none(), "`fresh` claims no refresh");
    cache.invalidate(|path| path == "/f", false);
    assert!(cache.stale("/f", now).is_none());
}

#[test]
fn entry_is_fresh_until_it_must_be_revalidated() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits::default(), SECOND);
    assert!(cache.get("/f", now).is_none());
    cache.insert("/f", disk.file(1), now, 0);
    assert!(cache.get("/f", now).is_some());
    assert!(cache.get("/f", now + SECOND - Duration::from_nanos(1)).is_some());
    assert!(cache.get("/f", now + SECOND).is_none());
    cache.insert("/f", disk.file(2), now + SECOND, 0);
    assert_eq!(cache.get("/f", now + SECOND).unwrap().usage(), (2, 0));
    assert_eq!(counted(&cache), Size { entries: 1, bytes: 4, open_files: 0 });
}

#[test]
fn result_of_later_lookup_is_not_overwritten_by_earlier_one() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits::default(), SECOND);
    cache.insert("/f", disk.file(2), now + Duration::from_millis(1), 0);
    cache.insert("/f", disk.file(1), now, 0);
    assert_eq!(cache.get("/f", now).unwrap().usage(), (2, 0));
}

#[test]
fn cache_without_freshness_holds_nothing() {
    let disk = Disk::new();
    let cache = Cache::new(Limits::default(), Duration::ZERO);
    cache.insert("/f", disk.file(1), Instant::now(), 0);
    assert_eq!(counted(&cache), Size::default());
}

#[test]
fn entries_stay_within_their_bound() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits { entries: 16, ..Limits::default() }, SECOND);
    let file = disk.file(1);
    for i in 0..16 {
        cache.insert(&format!("/{i}"), file.clone(), now, 0);
    }
    assert_eq!(counted(&cache).entries, 16);
    for i in 16..200 {
        cache.insert(&format!("/{i}"), file.clone(), now, 0);
        cache.insert(&format!("/{i}"), file.clone(), now, 0); // once more, since the table may be full
        assert!(counted(&cache).fits(cache.limits));
        assert!(cache.get(&format!("/{i}"), now).is_some());
    }
}

#[test]
fn bytes_stay_within_the_default_bound() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits::default(), SECOND);
    let file = disk.file(MAX_IN_MEMORY);
    // 512 of 32 KiB would be 16 MiB without their paths.
    for i in 0..600 {
        cache.insert(&format!("/{i}"), file.clone(), now, 0);
        let sum = counted(&cache);
        assert!(sum.fits(Limits::default()), "{sum:?}");
        assert!(i < 511 || sum.bytes > MAX_BYTES / 2, "{sum:?}");
    }
}

#[test]
fn open_files_stay_within_their_bound_and_evict_only_open_files() {
    let (disk, now) = (Disk::new(), Instant::now());
    let limits = Limits { open_files: 8, ..Limits::default() };
    let cache = Cache::new(limits, SECOND);
    for i in 0..50 {
        cache.insert(&format!("/small/{i}"), disk.file(1), now, 0);
    }
    for i in 0..50 {
        cache.insert(&format!("/large/{i}"), disk.file(MAX_IN_MEMORY + 1), now, 0);
        let sum = counted(&cache);
        assert!(sum.open_files <= 8 && sum.entries == 50 + sum.open_files, "{sum:?}");
    }
}

#[test]
fn entry_larger_than_a_bound_is_not_held_and_evicts_nothing() {
    let (disk, now) = (Disk::new(), Instant::now());
    let limits = Limits { bytes: 100, open_files: 0, ..Limits::default() };
    let cache = Cache::new(limits, SECOND);
    cache.insert("/f", disk.file(98), now, 0);
    cache.insert("/g", disk.file(99), now, 0);
    cache.insert("/large", disk.file(MAX_IN_MEMORY + 1), now, 0);
    cache.insert(&"/long".repeat(100), disk.missing(), now, 0);
    assert_eq!(counted(&cache), Size { entries: 1, bytes: 100, open_files: 0 });
}

#[test]
fn missing_names_evict_only_each_other() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits { entries: 16, ..Limits::default() }, SECOND);
    let missing = disk.missing();
    for i in 0..8 {
        cache.insert(&format!("/{i}"), disk.file(1), now, 0);
    }
    for i in 0..1000 {
        cache.insert(&format!("/none/{i}"), missing.clone(), now, 0);
        assert!(counted(&cache).entries <= 16);
    }
    assert!((0..8).all(|i| cache.get(&format!("/{i}"), now).is_some()));
}

#[test]
fn path_enters_full_table_when_it_is_looked_up_again() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits { entries: 16, ..Limits::default() }, SECOND);
    let file = disk.file(1);
    for i in 0..16 {
        cache.insert(&format!("/{i}"), file.clone(), now, 0);
    }
    // A client that requests every file once.
    for i in 16..1000 {
        cache.insert(&format!("/{i}"), file.clone(), now, 0);
    }
    assert!((0..16).all(|i| cache.get(&format!("/{i}"), now).is_some()));
    cache.insert("/999", file, now, 0);
    assert!(cache.get("/999", now).is_some());
    assert!(counted(&cache).entries <= 16);
}

#[test]
fn requested_entries_outlive_others() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits { entries: 16, ..Limits::default() }, SECOND);
    let file = disk.file(1);
    for i in 0..1000 {
        cache.insert("/hot", file.clone(), now, 0);
        assert!(cache.get("/hot", now).is_some());
        cache.insert(&format!("/{i}"), file.clone(), now, 0);
        assert!(cache.get("/hot", now).is_some(), "evicted by {i}");
    }
}

#[test]
fn one_caller_revalidates_while_others_get_stale_entry_for_one_more_lifetime() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits::default(), SECOND);
    cache.insert("/f", disk.file(1), now, 0);
    let later = now + SECOND;
    assert!(cache.get("/f", later).is_none(), "the first caller has the claim");
    assert!(cache.get("/f", later).is_some());
    assert!(cache.fresh("/f", later).is_none());
    let late = later + SECOND;
    assert!(cache.get("/f", late - Duration::from_nanos(1)).is_some());
    cache.release_refresh("/f");
    assert!(cache.get("/f", later).is_none(), "the claim was released");
    cache.insert("/f", disk.file(2), late, 0);
    assert!(cache.get("/f", late).is_some() && cache.fresh("/f", late).is_some());
    cache.release_refresh("/none");
}

#[test]
fn changed_entry_is_removed_and_result_of_earlier_lookup_is_not_cached() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits::default(), SECOND);
    let before = cache.change_count();
    cache.insert("/f", disk.file(1), now, before);
    cache.insert("/g", disk.file(1), now, before);
    cache.invalidate(|path| path == "/f", false);
    assert!(cache.get("/f", now).is_none() && cache.get("/g", now).is_some());
    assert_eq!(counted(&cache).entries, 1);
    cache.insert("/f", disk.file(1), now, before);
    assert!(cache.get("/f", now).is_none(), "the lookup may have seen the old file");
    cache.insert("/f", disk.file(1), now, cache.change_count());
    assert!(cache.get("/f", now).is_some());
}

#[test]
fn change_elsewhere_releases_refresh_claim() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits::default(), SECOND);
    cache.insert("/f", disk.file(1), now, 0);
    for round in 1..4 {
        let at = now + SECOND * round;
        assert!(cache.get("/f", at).is_none(), "it is stale");
        let changes = cache.change_count();
        for _ in 0..MAX_RECENT_BATCHES {
            cache.invalidate(|path| path == "/log", false); // while the lookup runs
        }
        cache.insert("/f", disk.file(1 + u64::from(round)), at, changes);
        assert_eq!(cache.get("/f", at).unwrap().usage().0, 1 + round as usize);
    }
}

#[test]
fn entry_that_may_have_changed_during_its_lookup_is_not_held() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits::default(), SECOND);
    let late = now + SECOND;
    for batches in [1, MAX_RECENT_BATCHES + 1] {
        cache.insert("/f", disk.file(1), now, cache.change_count());
        assert!(cache.get("/f", late).is_none());
        let changes = cache.change_count();
        // A change of the file itself, or more batches than are kept.
        for batch in 0..batches {
            cache.invalidate(move |path| batch == 0 && batches == 1 && path == "/f", false);
        }
        cache.insert("/f", disk.file(2), late, changes);
        assert!(cache.get("/f", late).is_none(), "{batches}");
    }
    assert_eq!(cache.lock().recent.len(), MAX_RECENT_BATCHES);
    assert_eq!(counted(&cache), Size::default());
}

#[test]
fn stale_entry_is_served_for_at_most_one_more_lifetime() {
    let (disk, now) = (Disk::new(), Instant::now());
    let cache = Cache::new(Limits::default(), SECOND);
    cache.insert("/f", disk.file(1), now, 0);
    assert!(
        cache.get("/f", now + SECOND).is_none(),
        "the first caller has the claim, and the disk hangs"
    );
    assert!(cache.get("/f", now + SECOND * 2 - Duration::from_nanos(1)).is_some());
    for seconds in 2..9 {
        assert!(cache.get("/f", now + SECOND * seconds).is_none(), "{seconds}");
    }
    let for_ever = Cache::new(Limits::default(), Duration::MAX);
    for_ever.insert("/f", disk.file(1), now, 0);
    assert!(for_ever.get("/f", now + SECOND * 100).is_some());
}

#[test]
fn table_without_a_bound_on_its_entries_takes_no_memory_for_them() {
    let disk = Disk::new();
    let limits = Limits { entries: usize::MAX, bytes: 100, open_files: 1 };
    let (cache, now) = (Cache::new(limits, SECOND), Instant::now());
    for path in ["/a", "/b", "/b"] {
        cache.insert(path, disk.file(60), now, cache.change_count());
    }
    assert!(cache.get("/a", now).is_none() && cache.get("/b", now).is_some());
    assert!(cache.lock().admission.len() <= 1 << 20);
}
