//! A directory's files: small ones are held in memory, large ones open.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    sync::Arc,
};

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_setfl};

use crate::files::backend::{BackendFile, Content};

/// Maximum size of a file whose content is held in memory, 32 KiB: head and body are sent by one write.
/// Above it, one `sendfile` is cheaper than the memory and the copy.
pub(in crate::files) const MAX_IN_MEMORY: u64 = 32 << 10;

/// Maximum number of times a file is read while it is being modified.
const MAX_READS: usize = 3;

/// Returns the current state of `file`; `meta` may be from before it was opened. Returns `None` if its length
/// is not the one that it reports, as on pseudo file systems: no Content-Length would be right.
pub(super) fn read(file: File, mut meta: Metadata) -> io::Result<Option<BackendFile>> {
    let mut length_mismatches = 0;
    for _ in 0..MAX_READS {
        if meta.len() > MAX_IN_MEMORY {
            break;
        }
        let bytes = read_content(&file, meta.len())?;
        let after = file.metadata()?;
        let (is_same, is_whole) =
            (stamp(&meta) == stamp(&after), bytes.len() as u64 == after.len());
        meta = after;
        match (is_same, is_whole) {
            (true, true) => return create(Content::Bytes(bytes), &meta).map(Some),
            // Or it was modified twice within one tick of the clock; unlikely each time.
            (true, false) => length_mismatches += 1,
            (false, _) => {}
        }
    }
    if length_mismatches == MAX_READS {
        return Ok(None);
    }
    // Large, or modified all the time: the response reads the open file. The open may have waited for the
    // holder of a lease, who has modified the file since `meta` was read.
    let meta = file.metadata()?;
    update_access_time(&file);
    create(Content::File(Arc::new(file), meta.len()), &meta).map(Some)
}

/// Reads one byte, which sets the access time to that of the lookup, and then sets `O_NOATIME`. Otherwise
/// the kernel checks that time with each segment that is sent and writes it once a day, on a connection's
/// thread. `O_NOATIME` needs the owner of the file or a privileged process.
fn update_access_time(file: &File) {
    let _ = file.read_at(&mut [0], 0); // sending the file reports errors
    let _ = fcntl_setfl(file, OFlags::NOATIME);
}

/// Creates a file of `content` with the time and the tag of `meta`.
pub(super) fn create(content: Content, meta: &Metadata) -> io::Result<BackendFile> {
    Ok(BackendFile { content, modified: Some(meta.modified()?), tag: tag(meta) })
}

/// Returns a value that changes when a file is replaced or modified: length, time and inode.
pub(super) fn stamp(meta: &Metadata) -> (u64, i64, i64, u64) {
    (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino())
}

/// Returns the entity tag of a file's state. The separators are needed: without them two states could have
/// one tag.
fn tag(meta: &Metadata) -> String {
    let (len, seconds, nanos, inode) = stamp(meta);
    format!("{len:x}-{seconds:x}.{nanos:x}-{inode:x}")
}

/// Reads the content, at most one byte more than `len`.
fn read_content(file: &File, len: u64) -> io::Result<Bytes> {
    let mut buf = vec![0; usize::try_from(len.min(MAX_IN_MEMORY) + 1).expect("32 KiB and a byte")];
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buf.truncate(filled);
    Ok(Bytes::from(buf.into_boxed_slice()))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn file_modified_during_read_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let above = vec![1; usize::try_from(MAX_IN_MEMORY).unwrap() + 1];
        for (before, after) in [
            (&b"abc"[..], &b"longer than before"[..]),
            (b"abc", b""),
            (b"", b"abc"),
            (b"abc", &above),
            (&above, b"abc"),
        ] {
            std::fs::write(&path, before).unwrap();
            let meta = std::fs::metadata(&path).unwrap();
            std::fs::write(&path, after).unwrap();
            let file = File::options().read(true).open(&path).unwrap();
            let file = read(file, meta).unwrap().unwrap();
            assert_eq!(file.content.len(), after.len() as u64);
            match file.content {
                Content::Bytes(bytes) => assert_eq!(bytes, after),
                Content::File(file, _) => {
                    assert_eq!(io::read_to_string(&*file).unwrap().as_bytes(), after);
                }
            }
        }
    }

    #[test]
    fn file_of_other_length_than_stated_is_absent() {
        // The first reports 0 bytes and has some, the second reports 4096 and has fewer.
        for path in ["/proc/sys/kernel/ostype", "/sys/kernel/uevent_seqnum"] {
            let Ok(file) = File::options().read(true).open(path) else { continue };
            let meta = file.metadata().unwrap();
            assert!(read(file, meta).unwrap().is_none(), "{path}");
        }
    }

    #[test]
    fn access_time_of_large_file_is_updated_once_per_lookup() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![1; usize::try_from(MAX_IN_MEMORY).unwrap() + 1]).unwrap();
        let open = || File::open(&path).unwrap();
        let long_ago = std::fs::FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH);
        let age = || File::options().write(true).open(&path).unwrap().set_times(long_ago).unwrap();
        let accessed = || std::fs::metadata(&path).unwrap().accessed().unwrap();

        age();
        open().read_at(&mut [0], 0).unwrap();
        if accessed() == SystemTime::UNIX_EPOCH {
            return; // mounted with noatime
        }
        age();
        let file = open();
        let meta = file.metadata().unwrap();
        let file = read(file, meta).unwrap().unwrap();
        assert!(accessed() > SystemTime::UNIX_EPOCH);
        age();
        let Content::File(file, _) = file.content else { panic!("it is large") };
        assert!(file.read_at(&mut [0], 0).unwrap() == 1);
        assert_eq!(accessed(), SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn f5_tags_of_different_states_differ_where_digits_would_run_together() {
        let dir = tempfile::tempdir().unwrap();
        let state = |content: &str, seconds: u64| {
            let path = dir.path().join("f");
            std::fs::write(&path, content).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.set_modified(at).unwrap();
            tag(&file.metadata().unwrap())
        };
        // Time 0x11, size 1 against time 0x1, size 0x11: "111" both, without a separator.
        assert_ne!(state("x", 0x11), state(&"x".repeat(0x11), 0x1));
    }
}
