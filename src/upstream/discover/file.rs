//! `FileSource`: targets in a file.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use tokio::time::sleep;

use super::{Target, Update, steps::Steps};
use crate::{error::BoxError, net::blocking_pool::BlockingPool};

/// Default interval in which the file is read: 1 s.
pub const FILE_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum size of the file: 1 MiB, for some 40,000 targets.
pub const MAX_FILE: u64 = 1 << 20;

type Item = Result<Update, BoxError>;

/// Follows a file with one [`Target`] per line. Empty lines and text after `#` are ignored.
///
/// The file is read every [`FILE_INTERVAL`], on a blocking thread, so it may be on a network file system and may be
/// replaced. A changed text is a new set. A file that cannot be read, or with an invalid line, is an error, which is
/// reported once. Replace the file by a rename, as `mv` does: a file that is written in place may be read while a part of it
/// is missing.
///
/// ```no_run
/// use vestibule::upstream::{Endpoint, Remote, Upstream, discover::FileSource};
///
/// # async fn run() -> std::io::Result<()> {
/// let api = Upstream::builder(["10.0.0.1:3000"]).build()?;
/// tokio::spawn(api.follow(FileSource::new("/etc/site/servers")));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct FileSource(Steps<Item, Reader>);

struct Reader {
    path: Arc<PathBuf>,
    interval: Duration,
    threads: Arc<BlockingPool>,
    is_first: bool,
    /// The last result: the text, or the error.
    last: Option<Result<String, String>>,
}

impl FileSource {
    /// Follows the file at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_interval(path, FILE_INTERVAL)
    }

    /// Follows the file at this path, and reads it once per `interval`.
    pub fn with_interval(path: impl Into<PathBuf>, interval: Duration) -> Self {
        let reader = Reader {
            path: Arc::new(path.into()),
            interval,
            threads: Arc::new(BlockingPool::default()),
            is_first: true,
            last: None,
        };
        Self(Steps::new(reader, |reader| Box::pin(reader.next())))
    }
}

impl Reader {
    /// Waits for the next update.
    async fn next(mut self) -> (Option<Item>, Self) {
        loop {
            if !std::mem::take(&mut self.is_first) {
                sleep(self.interval).await;
            }
            let path = self.path.clone();
            let read = self.threads.call(move || read(&path)).await;
            let text = match read {
                Ok(Ok(text)) => text,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::Error::other("the thread that reads the file has ended")),
            };
            let text = text.map_err(|e| format!("cannot read {}: {e}", self.path.display()));
            if self.last.as_ref() == Some(&text) {
                continue;
            }
            let item = match &text {
                Ok(text) => Target::parse_lines(text)
                    .map(Update::Set)
                    .map_err(|e| format!("cannot use {}: {e}", self.path.display()).into()),
                Err(error) => Err(error.clone().into()),
            };
            self.last = Some(text);
            return (Some(item), self);
        }
    }
}

fn read(path: &PathBuf) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if length as u64 > MAX_FILE {
        return Err(io::Error::other("the file is larger than 1 MiB"));
    }
    Ok(text)
}

impl Stream for FileSource {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        Pin::new(&mut self.0).poll_next(cx)
    }
}

impl std::fmt::Debug for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSource").finish_non_exhaustive()
    }
}
