//! Tests on a small file system of their own.

use std::ffi::CStr;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use super::*;

/// A small file system in memory, which is unmounted when it is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &CStr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), size).unwrap();
        Self(dir)
    }

    /// Writes a file until the disk is full.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.path().join("filler")).unwrap();
        while io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// The journal, and 256 KiB.
const SIZE: &CStr = c"size=1280k";

#[tokio::test]
#[cfg_attr(not(peer_mount), ignore = "needs CAP_SYS_ADMIN, to mount a small file system")]
async fn full_or_read_only_disk_leaves_responses_in_memory() {
    let disk = SmallDisk::mount(SIZE);
    let layer = open(&disk.0, || builder().max_object(300_000)).await;
    source(&layer, "/10000").await;
    written(&layer, 1).await;
    // Larger than the disk.
    assert_eq!(source(&layer, "/300000").await, "origin");
    until(|| files(&disk.0, "content").len() == 1 && layer.handle().stats().keys == 1).await;
    assert_eq!(source(&layer, "/300000").await, "cache", "from memory");
    mount_remount(disk.0.path(), MountFlags::RDONLY, c"").unwrap();
    assert_eq!(source(&layer, "/20").await, "origin");
    assert_eq!(source(&layer, "/20").await, "cache");
    layer.handle().delete_all(Purge::Hard);
    assert_eq!(source(&layer, "/10000").await, "origin");
    drop(layer);
}

#[tokio::test]
#[cfg_attr(not(peer_mount), ignore = "needs CAP_SYS_ADMIN, to mount a small file system")]
async fn content_that_fills_the_disk_while_it_is_received_is_sent_and_not_stored() {
    let disk = SmallDisk::mount(SIZE);
    let layer = open(&disk.0, builder).await;
    let cache = layer.handle();
    assert_eq!(source(&layer, "/400000").await, "origin");
    until(|| files(&disk.0, "content").is_empty() && cache.stats().not_stored == 1).await;
    assert_eq!((cache.stats().keys, files(&disk.0, "head").len()), (0, 0));
    // The pause after the failure: nothing is written.
    assert_eq!(source(&layer, "/20").await, "origin");
    assert_eq!(source(&layer, "/20").await, "cache", "from memory");
    assert_eq!(source(&layer, "/20000").await, "origin");
    assert_eq!((cache.stats().not_stored, files(&disk.0, "content").len()), (2, 0));
    drop((layer, cache));
}

#[tokio::test]
#[cfg_attr(not(peer_mount), ignore = "needs CAP_SYS_ADMIN, to mount a small file system")]
async fn invalidation_on_a_full_disk_is_kept_for_the_next_process() {
    let disk = SmallDisk::mount(SIZE);
    let layer = open(&disk.0, builder).await;
    let paths = ["/soft/10000", "/softly/20000", "/hard/10000", "/kept/10000"];
    for path in paths {
        source(&layer, path).await;
    }
    written(&layer, 4).await;
    disk.fill();
    let cache = layer.handle();
    cache.delete_prefix("http://a/soft/", Purge::Soft);
    cache.delete(&Key::new("http", "a", paths[1], None).unwrap(), Purge::Soft);
    cache.swept().await;
    cache.delete(&Key::new("http", "a", paths[2], None).unwrap(), Purge::Hard);
    cache.swept().await;
    assert_eq!(files(&disk.0, "head").len(), 3);
    assert!(fs::read(disk.0.path().join("marks")).unwrap()[24..28] != [0; 4], "the records stay");
    drop((layer, cache));
    let layer = open(&disk.0, builder).await;
    for (path, from) in paths.into_iter().zip(["origin", "origin", "origin", "cache"]) {
        assert_eq!(source(&layer, path).await, from, "{path}");
    }
    drop(layer);
}
