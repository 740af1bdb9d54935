//! An unnamed temporary file that is appended to on threads that may block.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use tokio::sync::oneshot;

use crate::{
    Budget,
    body::FileSlice,
    budget::{BudgetExhausted, Lease},
    net::blocking_pool::{BlockingPool, Job, copy_error},
};

/// Writes and closes the temporary files of all buffers.
static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);

/// Bytes that are collected for the next batch while one is written, 128 KiB. A slow disk delays the
/// sender of the body, never a thread that serves other connections. A body takes at most twice this
/// amount of memory, except for a single piece that is larger.
const MAX_BATCH: u64 = 128 << 10;

/// The least that a piece counts for, 64 bytes: about the memory for its handle. So a body of single
/// bytes cannot take more memory than the limit allows.
const MIN_PIECE_COST: usize = 64;

/// Returns the number of bytes that a piece in memory counts for.
pub(super) fn memory_cost(data: &Bytes) -> usize {
    data.len().max(MIN_PIECE_COST)
}

/// A body that is written to a temporary file, with the part that is not yet written.
pub(super) struct Spill {
    pool: &'static BlockingPool,
    budget: Budget,
    /// Created with the first batch.
    file: Option<Arc<File>>,
    disk: Lease,
    /// The length of the file so far.
    written_len: u64,
    batch: Vec<Bytes>,
    batch_len: usize,
    /// Counts the batch. It moves with the batch, since dropping the spill does not stop a write.
    memory: Lease,
    writing: Option<PendingWrite>,
}

/// A batch that is being written.
struct PendingWrite {
    written: oneshot::Receiver<WriteResult>,
    len: usize,
}

/// The result of a write: the batch, its lease, and the file that it was written to.
type WriteResult = (Vec<Bytes>, Lease, io::Result<Arc<File>>);

/// Writes a batch.
struct WriteJob {
    file: Option<Arc<File>>,
    dir: PathBuf,
    at: u64,
    batch: Vec<Bytes>,
    memory: Lease,
    written: oneshot::Sender<WriteResult>,
}

impl Job for WriteJob {
    fn is_wanted(&mut self) -> bool {
        !self.written.is_closed()
    }

    fn run(self: Box<Self>) {
        let Self { file, dir, at, batch, memory, written } = *self;
        let result = write(file, &dir, at, &batch);
        let _ = written.send((batch, memory, result));
    }

    fn fail(self: Box<Self>, error: &io::Error) {
        let Self { file, batch, memory, written, .. } = *self;
        drop(file); // not the last handle, as the spill has one
        let _ = written.send((batch, memory, Err(copy_error(error))));
    }
}

/// A batch that could not be written and counts no longer.
#[derive(Debug)]
pub(super) struct WriteFailed {
    /// Empty if the write panicked and the batch is lost.
    pub(super) batch: Vec<Bytes>,
    pub(super) error: io::Error,
}

impl Spill {
    /// Creates an empty spill.
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            pool: &POOL,
            budget: budget.clone(),
            file: None,
            disk: budget.disk_lease(),
            written_len: 0,
            batch: Vec::new(),
            batch_len: 0,
            memory: budget.memory_lease(),
            writing: None,
        }
    }

    /// Creates a spill that writes to `file`.
    #[cfg(test)]
    pub(super) fn with_file(file: Arc<File>, budget: &Budget) -> Self {
        let mut spill = Self::new(budget);
        spill.file = Some(file);
        spill
    }

    /// Creates a spill that writes on `pool`.
    #[cfg(test)]
    pub(super) fn with_pool(pool: &'static BlockingPool, budget: &Budget) -> Self {
        let mut spill = Self::new(budget);
        spill.pool = pool;
        spill
    }

    /// Drops the batch that is being written, as a panic of the write does.
    #[cfg(test)]
    pub(super) fn lose_batch(&mut self) {
        self.start_write();
        self.writing.as_mut().expect("it has just begun").written = oneshot::channel().1;
    }

    /// Returns whether everything that was pushed is written.
    pub(super) fn is_flushed(&self) -> bool {
        self.batch.is_empty() && self.writing.is_none()
    }

    /// Returns whether another piece may be pushed. While the budget's memory is exhausted no batch is
    /// collected during a write.
    pub(super) fn has_capacity(&self) -> bool {
        self.memory.bytes() < MAX_BATCH && (self.writing.is_none() || !self.budget.is_exhausted())
    }

    /// Returns the length of the file so far.
    pub(super) fn written_len(&self) -> u64 {
        self.written_len
    }

    /// Returns the length that the file will have when everything is written.
    pub(super) fn len(&self) -> u64 {
        let writing = self.writing.as_ref().map_or(0, |w| w.len);
        self.written_len + (writing + self.batch_len) as u64
    }

    /// Continues in a new file after everything that was written has been read. The old file is not
    /// overwritten: `sendfile` returns when the socket references the file's pages, which are sent later.
    pub(super) fn start_new_file(&mut self) {
        if self.is_flushed() && self.written_len > 0 {
            close(self.file.take());
            self.written_len = 0;
        }
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// [`BudgetExhausted`] if the budget has no disk space for it; nothing is appended then.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<(), BudgetExhausted> {
        let end = self.len() + piece.len() as u64;
        if end > self.disk.bytes() {
            if self.disk.bytes() == 0 {
                self.budget.count_spilled();
            }
            self.disk.try_set(end)?;
        }
        self.batch_len += piece.len();
        self.memory.set(self.memory.bytes() + memory_cost(&piece) as u64);
        self.batch.push(piece);
        Ok(())
    }

    /// Writes everything that was pushed. Ready when all of it is written or a write has failed.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteFailed>> {
        while !self.is_flushed() {
            ready!(self.poll_write(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Starts a write if none is running, waits for its end and returns its number of bytes; 0 if there is
    /// nothing to write.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, WriteFailed>> {
        if self.writing.is_none() && !self.batch.is_empty() {
            self.start_write();
        }
        let Some(write) = &mut self.writing else { return Poll::Ready(Ok(0)) };
        let done = ready!(Pin::new(&mut write.written).poll(cx));
        let len = write.len as u64;
        self.writing = None;
        let (batch, _memory, result) = match done {
            Ok(done) => done,
            Err(_) => {
                let error = io::Error::other("the write panicked");
                (Vec::new(), self.budget.memory_lease(), Err(error))
            }
        };
        match result {
            Ok(file) => {
                self.file = Some(file);
                self.written_len += len;
                Poll::Ready(Ok(len))
            }
            Err(error) => Poll::Ready(Err(WriteFailed { batch, error })),
        }
    }

    fn start_write(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let len = std::mem::take(&mut self.batch_len);
        let (file, at) = (self.file.clone(), self.written_len);
        let dir = self.budget.spill_dir().to_owned();
        let memory = self.memory.take();
        let (done, written) = oneshot::channel();
        self.pool.run(Box::new(WriteJob { file, dir, at, batch, memory, written: done }));
        self.writing = Some(PendingWrite { written, len });
    }

    /// Takes back the pieces that are not yet being written.
    pub(super) fn take_batch(&mut self) -> Vec<Bytes> {
        self.batch_len = 0;
        self.memory.set(0);
        std::mem::take(&mut self.batch)
    }

    /// Returns the file, if anything was written to it.
    pub(super) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// Returns everything that was written, if anything was. The slice holds the disk lease until it is
    /// dropped.
    pub(super) fn into_slice(self) -> Option<FileSlice> {
        struct Guard {
            file: Option<Arc<File>>,
            pool: &'static BlockingPool,
            _disk: Lease,
        }

        impl Drop for Guard {
            fn drop(&mut self) {
                close_on(self.pool, self.file.take());
            }
        }

        let (len, pool) = (self.written_len, self.pool);
        let (file, disk) = self.into_parts();
        let file = file?;
        let guard = Guard { file: Some(file.clone()), pool, _disk: disk };
        Some(FileSlice::new(file, 0, len).with_guard(guard))
    }

    /// Returns the file and its disk lease.
    pub(super) fn into_parts(mut self) -> (Option<Arc<File>>, Lease) {
        let disk = self.disk.take();
        (self.file.take(), disk)
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if let Some(PendingWrite { mut written, .. }) = self.writing.take() {
            // From here on the thread that writes keeps its handle. A result that it has sent before is taken, since its file
            // must not be closed here.
            written.close();
            if let Ok((_, _, Ok(file))) = written.try_recv() {
                self.file = Some(file);
            }
        }
        close_on(self.pool, self.file.take());
    }
}

/// Closes a file on a thread that may block if this is its last handle: closing an unnamed file frees its
/// space, which takes a third of a millisecond for each megabyte. If no thread can be started the file is
/// closed on this thread. Never panics.
pub(super) fn close(file: Option<Arc<File>>) {
    close_on(&POOL, file);
}

fn close_on(pool: &BlockingPool, file: Option<Arc<File>>) {
    struct Close(#[expect(dead_code, reason = "closed when it is dropped")] File);

    impl Job for Close {
        fn is_wanted(&mut self) -> bool {
            true
        }

        fn run(self: Box<Self>) {}
    }

    if let Some(file) = file.and_then(Arc::into_inner) {
        pool.run(Box::new(Close(file)));
    }
}

/// Writes the pieces consecutively at `at`, to a new file if there is none.
fn write(
    file: Option<Arc<File>>,
    dir: &Path,
    mut at: u64,
    pieces: &[Bytes],
) -> io::Result<Arc<File>> {
    let file = match file {
        Some(file) => file,
        None => Arc::new(create_unnamed(dir)?),
    };
    for piece in pieces {
        file.write_all_at(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(file)
}

/// Creates a file that only its owner may open (0600) and that has no name. Where the file system lacks
/// `O_TMPFILE` the name is removed at once. Nothing is left on disk, even if the process is killed.
fn create_unnamed(dir: &Path) -> io::Result<File> {
    let how = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, how, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            Ok(tempfile::NamedTempFile::new_in(dir)?.into_file())
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests;
