//! Tests with a disk that answers on request: a FUSE file system.

use std::{
    ffi::OsStr,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, Request,
};
use rustix::mount::{UnmountFlags, unmount};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::{Layer, service_fn};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, limit::RequestBodyLimitLayer,
    trace::TraceLayer,
};

use crate::{
    Body, HttpService, Response, Router, files,
    tests::support::{Running, TIMEOUT, read_until, start, within},
};

const LEN: u64 = 5 << 20;
const MIB: u64 = 1 << 20;
const FILE: INodeNo = INodeNo(2);

/// Returns the byte of the file at an offset.
fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

/// A file that can be read only up to an offset.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    until: u64,
    /// The pending reads of the kernel.
    waiting: Vec<(u64, u32, ReplyData)>,
}

impl Disk {
    /// Allows reads of everything before `until`.
    fn open(&self, until: u64) {
        let mut state = self.0.lock().unwrap();
        state.until = state.until.max(until);
        for (offset, size, reply) in std::mem::take(&mut state.waiting) {
            if offset < state.until {
                answer(offset, size, reply);
            } else {
                state.waiting.push((offset, size, reply));
            }
        }
    }

    fn is_read(&self) -> bool {
        !self.0.lock().unwrap().waiting.is_empty()
    }
}

fn answer(offset: u64, size: u32, reply: ReplyData) {
    let to = (offset + u64::from(size)).min(LEN);
    reply.data(&(offset..to).map(byte).collect::<Vec<_>>());
}

fn attributes(inode: INodeNo) -> FileAttr {
    let (kind, perm, size) = match inode {
        FILE => (FileType::RegularFile, 0o644, LEN),
        _ => (FileType::Directory, 0o755, 0),
    };
    let time = UNIX_EPOCH + Duration::from_secs(1);
    let (atime, mtime, ctime, crtime) = (time, time, time, time);
    let (uid, gid, rdev, flags, nlink, blksize) = (0, 0, 0, 0, 1, 4096);
    let blocks = size / 512;
    FileAttr {
        ino: inode,
        size,
        blocks,
        atime,
        mtime,
        ctime,
        crtime,
        kind,
        perm,
        nlink,
        uid,
        gid,
        rdev,
        blksize,
        flags,
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "large.bin" {
            reply.entry(&TIMEOUT, &attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TIMEOUT, &attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.0.lock().unwrap();
        if offset < state.until {
            answer(offset, size, reply);
        } else {
            state.waiting.push((offset, size, reply));
        }
    }
}

/// A mounted file system, which is unmounted on drop even if its files are open.
struct Mounted {
    disk: Disk,
    at: PathBuf,
    _session: BackgroundSession,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.disk.open(LEN);
        // By force, which also closes the files of a server that was not stopped.
        unmount(&self.at, UnmountFlags::DETACH | UnmountFlags::FORCE).unwrap();
    }
}

/// A server of a directory on such a disk. The server and the clients share one thread, so a wait for the disk on it
/// blocks all of them.
struct Served {
    disk: Disk,
    server: Running,
    /// Allows all reads if the thread waits for the disk, so that the test fails and does not hang.
    watchdog: thread::JoinHandle<bool>,
    done: std::sync::mpsc::Sender<()>,
    _mounted: Mounted,
    _directory: tempfile::TempDir,
}

impl Served {
    async fn new() -> Self {
        Self::wrapped(|files| files).await
    }

    /// Serves the files in a wrapper.
    async fn wrapped<S>(wrap: impl FnOnce(files::Dir) -> S) -> Self
    where
        S: HttpService<Future: Send> + Clone + Send + Sync + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::RO, MountOption::FSName("vestibule-test".to_owned())];
        let mounted = Mounted {
            _session: fuser::spawn_mount(disk.clone(), directory.path(), &config).unwrap(),
            disk: disk.clone(),
            at: directory.path().to_owned(),
        };
        let hello = service_fn(async |_| Ok::<_, crate::BoxError>(Response::new(Body::from("hi"))));
        let site =
            Router::new().nest("/disk", wrap(files::dir(directory.path()))).route("/hello", hello);
        let server = start(site).await;
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let rescue = disk.clone();
        let watchdog = thread::spawn(move || {
            let hangs = is_done.recv_timeout(TIMEOUT).is_err();
            rescue.open(LEN);
            hangs
        });
        Self { disk, server, watchdog, done, _mounted: mounted, _directory: directory }
    }

    async fn ask(&self, fields: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.server.addr).await.unwrap();
        let get = format!("GET /disk/large.bin HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        client.write_all(get.as_bytes()).await.unwrap();
        client
    }

    async fn others_are_served(&self) {
        within(async {
            while !self.disk.is_read() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        for _ in 0..3 {
            let mut other = TcpStream::connect(self.server.addr).await.unwrap();
            other.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            read_until(&mut other, "hi").await;
        }
        assert!(self.disk.is_read(), "it still waits");
    }

    async fn end(self) {
        self.server.stop().await;
        let _ = self.done.send(());
        assert!(!self.watchdog.join().unwrap(), "a thread waited for the disk");
    }
}

#[tokio::test]
#[cfg_attr(not(peer_fuse), ignore = "mounting a file system: run as root, or install fuse3")]
async fn slow_disk_blocks_only_requests_that_need_it() {
    blocks_no_other(Served::new().await).await;
}

#[tokio::test]
#[cfg_attr(not(peer_fuse), ignore = "mounting a file system: run as root, or install fuse3")]
async fn foreign_wrapper_of_a_file_body_blocks_no_other_connection() {
    blocks_no_other(Served::wrapped(|files| TraceLayer::new_for_http().layer(files)).await).await;
    blocks_no_other(Served::wrapped(|files| CompressionLayer::new().layer(files)).await).await;
    blocks_no_other(Served::wrapped(|files| CatchPanicLayer::new().layer(files)).await).await;
    blocks_no_other(Served::wrapped(|files| RequestBodyLimitLayer::new(1).layer(files)).await)
        .await;
}

async fn blocks_no_other(served: Served) {
    let disk = &served.disk;
    let mut client = served.ask("Connection: close\r\n").await;
    // During the lookup of the file.
    served.others_are_served().await;
    disk.open(2 * MIB);
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    // While it is sent: first the part in memory, then the rest in pieces.
    let mut body = Vec::new();
    for until in [2 * MIB, 4 * MIB, LEN] {
        disk.open(until);
        let want = usize::try_from(until).unwrap();
        within(async {
            while body.len() < want {
                assert_ne!(client.read_buf(&mut body).await.unwrap(), 0);
            }
        })
        .await;
        if until < LEN {
            served.others_are_served().await;
        }
    }
    assert!(body.iter().zip(0..).all(|(&b, at)| b == byte(at)) && body.len() as u64 == LEN);
    drop(client);
    served.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_fuse), ignore = "mounting a file system: run as root, or install fuse3")]
async fn part_on_slow_disk_blocks_no_other_request() {
    let served = Served::new().await;
    served.disk.open(2 * MIB);
    let mut client = served.ask("Range: bytes=0-9,4000000-4000009\r\n").await;
    served.others_are_served().await;
    served.disk.open(LEN);
    let answer = read_until(&mut client, "--\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 206 Partial Content\r\n"), "{answer}");
    assert!(answer.contains("\r\ncontent-range: bytes 4000000-4000009/5242880\r\n"), "{answer}");
    drop(client);
    served.end().await;
}
