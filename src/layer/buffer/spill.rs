//! A temporary file without a name, written behind its end on threads that may block.

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
    budget::{Full, Lease},
    net::blocking_pool::{BlockingPool, Job, copy_error},
};

/// Writes and closes the temporary files of all buffers.
static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);

/// So much is gathered while the last batch is written: 128 KiB. A slow disk holds up the body's
/// sender, never a thread that serves others, and a body on its way takes twice that at most, but for
/// a single piece that is larger.
const BATCH: u64 = 128 << 10;

/// What each piece counts at least, in bytes: 64, about what it takes to hold it. So a body of
/// single bytes cannot take more memory than the bound says.
const PIECE: usize = 64;

/// What a piece in memory counts for.
pub(super) fn cost(data: &Bytes) -> usize {
    data.len().max(PIECE)
}

/// What is written and not yet written of a body.
pub(super) struct Spill {
    pool: &'static BlockingPool,
    budget: Budget,
    /// Made with the first batch.
    file: Option<Arc<File>>,
    disk: Lease,
    /// Up to here the file is written.
    written: u64,
    batch: Vec<Bytes>,
    batched: usize,
    /// What the batch counts for. It goes with the batch: whoever leaves does not stop a write.
    memory: Lease,
    writing: Option<Write>,
}

/// A batch on its way to the disk.
struct Write {
    written: oneshot::Receiver<Written>,
    len: usize,
}

/// A batch that has been on its way, what it counts for, and the file that it was written to.
type Written = (Vec<Bytes>, Lease, io::Result<Arc<File>>);

/// Writes a batch.
struct WriteJob {
    file: Option<Arc<File>>,
    dir: PathBuf,
    at: u64,
    batch: Vec<Bytes>,
    memory: Lease,
    written: oneshot::Sender<Written>,
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
        drop(file); // not the last handle: the spill has one
        let _ = written.send((batch, memory, Err(copy_error(error))));
    }
}

/// A batch that could not be written, to be dealt with in another way; nothing of it counts.
#[derive(Debug)]
pub(super) struct NotWritten {
    /// Empty if it is lost: its write has panicked.
    pub(super) batch: Vec<Bytes>,
    pub(super) error: io::Error,
}

impl Spill {
    /// Nothing on disk yet.
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            pool: &POOL,
            budget: budget.clone(),
            file: None,
            disk: budget.disk(),
            written: 0,
            batch: Vec::new(),
            batched: 0,
            memory: budget.memory(),
            writing: None,
        }
    }

    /// On this file.
    #[cfg(test)]
    pub(super) fn on(file: Arc<File>, budget: &Budget) -> Self {
        let mut spill = Self::new(budget);
        spill.file = Some(file);
        spill
    }

    /// Writes on this pool.
    #[cfg(test)]
    pub(super) fn on_pool(pool: &'static BlockingPool, budget: &Budget) -> Self {
        let mut spill = Self::new(budget);
        spill.pool = pool;
        spill
    }

    /// Loses the batch that is on its way, as a write does that panics.
    #[cfg(test)]
    pub(super) fn lose_batch(&mut self) {
        self.begin();
        self.writing.as_mut().expect("it has just begun").written = oneshot::channel().1;
    }

    /// Is everything written that was pushed?
    pub(super) fn is_settled(&self) -> bool {
        self.batch.is_empty() && self.writing.is_none()
    }

    /// May more be pushed, without piling up? When all memory is taken nothing is gathered.
    pub(super) fn has_room(&self) -> bool {
        self.memory.bytes() < BATCH && (self.writing.is_none() || !self.budget.is_spent())
    }

    /// Up to here the file is written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The file's length, once all is written.
    pub(super) fn end(&self) -> u64 {
        let writing = self.writing.as_ref().map_or(0, |w| w.len);
        self.written + (writing + self.batched) as u64
    }

    /// Begins with an empty file again: what was written has been read. Not by writing over it:
    /// `sendfile` is done when the socket has the file's pages, and they are sent later.
    pub(super) fn renew(&mut self) {
        if self.is_settled() && self.written > 0 {
            close(self.file.take());
            self.written = 0;
        }
    }

    /// Adds a piece behind the others.
    ///
    /// # Errors
    /// [`Full`] if the budget has no room on disk for it; then nothing was added.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<(), Full> {
        let end = self.end() + piece.len() as u64;
        if end > self.disk.bytes() {
            if self.disk.bytes() == 0 {
                self.budget.count_spilled();
            }
            self.disk.try_set(end)?;
        }
        self.batched += piece.len();
        self.memory.set(self.memory.bytes() + cost(&piece) as u64);
        self.batch.push(piece);
        Ok(())
    }

    /// Writes what was pushed. Ready: all is written, or a batch was not.
    pub(super) fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotWritten>> {
        while !self.is_settled() {
            ready!(self.poll_step(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Begins to write what was pushed, if nothing is being written, and waits for the next batch
    /// to be done; how much it was.
    pub(super) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, NotWritten>> {
        if self.writing.is_none() && !self.batch.is_empty() {
            self.begin();
        }
        let Some(write) = &mut self.writing else { return Poll::Ready(Ok(0)) };
        let done = ready!(Pin::new(&mut write.written).poll(cx));
        let len = write.len as u64;
        self.writing = None;
        let (batch, _memory, result) = match done {
            Ok(done) => done,
            Err(_) => {
                let error = io::Error::other("the write panicked");
                (Vec::new(), self.budget.memory(), Err(error))
            }
        };
        match result {
            Ok(file) => {
                self.file = Some(file);
                self.written += len;
                Poll::Ready(Ok(len))
            }
            Err(error) => Poll::Ready(Err(NotWritten { batch, error })),
        }
    }

    fn begin(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let len = std::mem::take(&mut self.batched);
        let (file, at) = (self.file.clone(), self.written);
        let dir = self.budget.spill_dir().to_owned();
        let memory = self.memory.take();
        let (done, written) = oneshot::channel();
        self.pool.run(Box::new(WriteJob { file, dir, at, batch, memory, written: done }));
        self.writing = Some(Write { written, len });
    }

    /// What was pushed and is not being written, taken back.
    pub(super) fn take_batch(&mut self) -> Vec<Bytes> {
        self.batched = 0;
        self.memory.set(0);
        std::mem::take(&mut self.batch)
    }

    /// The file, if anything was written to it.
    pub(super) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// All that was written, if anything was. It has its share of the disk until it is dropped.
    pub(super) fn into_slice(self) -> Option<FileSlice> {
        struct Kept {
            file: Option<Arc<File>>,
            pool: &'static BlockingPool,
            _disk: Lease,
        }

        impl Drop for Kept {
            fn drop(&mut self) {
                close_on(self.pool, self.file.take());
            }
        }

        let (len, pool) = (self.written, self.pool);
        let (file, disk) = self.into_parts();
        let file = file?;
        let kept = Kept { file: Some(file.clone()), pool, _disk: disk };
        Some(FileSlice::new(file, 0, len).with_guard(kept))
    }

    /// The file with its share of the disk.
    pub(super) fn into_parts(mut self) -> (Option<Arc<File>>, Lease) {
        let disk = self.disk.take();
        (self.file.take(), disk)
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        close_on(self.pool, self.file.take());
    }
}

/// Closes a file on a thread that may block if this is its last handle: then the space of a file without a
/// name is freed, which takes a third of a millisecond for each megabyte. If no thread can be started the file
/// is closed here. Never panics.
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

/// Writes the pieces one behind the other, to a new file if there is none.
fn write(
    file: Option<Arc<File>>,
    dir: &Path,
    mut at: u64,
    pieces: &[Bytes],
) -> io::Result<Arc<File>> {
    let file = match file {
        Some(file) => file,
        None => Arc::new(nameless(dir)?),
    };
    for piece in pieces {
        file.write_all_at(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(file)
}

/// A file that nobody else may open (0600) and that never has a name, or loses it at once where the
/// file system cannot do that: whatever becomes of us, nothing is left behind.
fn nameless(dir: &Path) -> io::Result<File> {
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
