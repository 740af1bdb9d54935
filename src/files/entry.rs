//! What a path names, read from the disk once and ready to be answered with many times.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::{
    choices::Choices,
    listing::Listing,
    mime::content_type,
    root::{Opened, Root},
};
use crate::{
    body::{Body, FileSlice},
    semantics::{conditional::Validators, date::HttpDate, etag::ETag, negotiate::Coding},
};

/// Up to this size a file's content is held in memory, so that head and body leave in one write;
/// above it, one `sendfile` is cheaper than the memory and the copy.
pub(super) const IN_MEMORY: u64 = 32 << 10;

/// How often a file is read again because somebody wrote to it meanwhile.
const TRIES: usize = 3;

/// What a path names.
#[derive(Debug)]
pub(super) enum Entry {
    File(Variants),
    /// What is in a folder that has no index file.
    Listing(Listing),
    /// A folder that was asked for without the slash.
    Folder,
    Missing,
}

/// A file, and the same in other codings.
#[derive(Debug)]
pub(super) struct Variants {
    pub(super) plain: Page,
    /// In the order in which we would choose; empty without such files, and unless they are asked
    /// for.
    pub(super) coded: Vec<(Coding, Page)>,
}

/// A file with all that its responses need.
#[derive(Debug)]
pub(super) struct Page {
    /// The headers of a 200 to GET.
    pub(super) headers: HeaderMap,
    pub(super) len: u64,
    etag: HeaderValue,
    modified: HttpDate,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Memory(Bytes),
    Open(Arc<File>),
}

impl Entry {
    /// Looks up what `path` names below `root`. Blocks on the disk.
    pub(super) fn load(root: &Root, path: &Path, choices: &Choices) -> io::Result<Self> {
        let found = Self::at(root, &path.below_root, path.is_index, choices)?;
        if !matches!(found, Self::Missing) {
            return Ok(found);
        }
        if path.is_index && choices.listing {
            let folder = path.below_root.rsplit_once('/').map_or(".", |(folder, _)| folder);
            if let Some(Opened { file, meta }) = root.open(folder)?
                && meta.is_dir()
            {
                return Listing::read(&file, choices.hidden).map(Self::Listing);
            }
        }
        if !path.is_index && choices.html_extension {
            let page = format!("{}.html", path.below_root);
            return Self::at(root, &page, true, choices);
        }
        Ok(Self::Missing)
    }

    fn at(root: &Root, path: &str, file_only: bool, choices: &Choices) -> io::Result<Self> {
        let Some(Opened { file, meta }) = root.open(path)? else {
            return Ok(Self::Missing);
        };
        if meta.is_dir() {
            // A folder that bears the name of the index file is not what was asked for.
            return Ok(if file_only { Self::Missing } else { Self::Folder });
        }
        Variants::load(root, file, meta, path, choices).map(Self::File)
    }

    /// What it holds: bytes of content in memory, and open files.
    pub(super) fn held(&self) -> (usize, usize) {
        match self {
            Self::File(Variants { plain, coded }) => {
                let all = std::iter::once(plain).chain(coded.iter().map(|(_, page)| page));
                all.map(|page| match &page.content {
                    Content::Memory(bytes) => (bytes.len(), 0),
                    Content::Open(_) => (0, 1),
                })
                .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
            }
            Self::Listing(listing) => (listing.html.len() + listing.json.len(), 0),
            Self::Folder | Self::Missing => (0, 0),
        }
    }
}

/// Codings that are looked for beside a file, best first, with the ends of their names.
const CODINGS: [(Coding, &str); 3] =
    [(Coding::Zstd, ".zst"), (Coding::Brotli, ".br"), (Coding::Gzip, ".gz")];

impl Variants {
    fn load(
        root: &Root,
        file: File,
        meta: Metadata,
        path: &str,
        choices: &Choices,
    ) -> io::Result<Self> {
        let written = (meta.mtime(), meta.mtime_nsec());
        let mut plain = Page::load(file, meta, path, choices)?;
        let mut coded = Vec::new();
        for (coding, end) in CODINGS.into_iter().filter(|_| choices.precompressed) {
            let Some(Opened { file, meta }) = root.open(&format!("{path}{end}"))? else { continue };
            // One that is older than the file is of a version that is no more.
            if meta.is_dir() || (meta.mtime(), meta.mtime_nsec()) < written {
                continue;
            }
            let mut page = Page::load(file, meta, path, choices)?;
            let name = coding.name().expect("all of these have one");
            page.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
            coded.push((coding, page));
        }
        if choices.precompressed {
            let pages = coded.iter_mut().map(|(_, page)| page);
            for page in std::iter::once(&mut plain).chain(pages) {
                let value = HeaderValue::from_static("accept-encoding");
                page.headers.insert(header::VARY, value);
            }
        }
        Ok(Self { plain, coded })
    }
}

/// Where below the root a request's file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) below_root: String,
    /// The request named a folder, with the slash; this is its index file.
    pub(super) is_index: bool,
}

impl Path {
    /// The file that a decoded path without its leading slash stands for; `None` if it stands for
    /// none: hidden names, and empty segments, which would be second names of the same file.
    pub(super) fn of(path: &str, choices: &Choices) -> Option<Self> {
        let (folders, name) = path.rsplit_once('/').map_or((None, path), |(f, n)| (Some(f), n));
        for (i, segment) in folders.into_iter().flat_map(|f| f.split('/')).enumerate() {
            // RFC 8615: what is well-known is at the top.
            let hidden = segment.starts_with('.') && !(i == 0 && segment == ".well-known");
            if (hidden && !choices.hidden) || segment.is_empty() {
                return None;
            }
        }
        if name.starts_with('.') && path != ".well-known" && !choices.hidden {
            return None;
        }
        let is_index = name.is_empty();
        let below_root =
            if is_index { format!("{path}{}", choices.index) } else { path.to_owned() };
        Some(Self { below_root, is_index })
    }
}

impl Page {
    fn load(file: File, mut meta: Metadata, path: &str, choices: &Choices) -> io::Result<Self> {
        let mut content = None;
        for _ in 0..TRIES {
            if meta.len() > IN_MEMORY {
                break;
            }
            let bytes = read(&file, meta.len())?;
            let after = file.metadata()?;
            let same = bytes.len() as u64 == after.len() && stamp(&meta) == stamp(&after);
            meta = after;
            if same {
                content = Some(Content::Memory(bytes));
                break;
            }
        }
        // Large, or being written to all the time: read by the response itself.
        let content = content.unwrap_or_else(|| Content::Open(Arc::new(file)));
        let etag = etag(&meta);
        // Not later than now: RFC 9110 section 8.8.2.1.
        let now = HttpDate::from(SystemTime::now());
        let modified = HttpDate::from(meta.modified()?).min(now);

        let mut headers = HeaderMap::with_capacity(7);
        headers.insert(header::CONTENT_TYPE, content_type(path));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::LAST_MODIFIED, modified.to_value());
        headers.insert(header::ETAG, etag.clone());
        if let Some(value) = choices.cache_control.as_ref().and_then(|policy| policy(path)) {
            headers.insert(header::CACHE_CONTROL, value);
        }
        Ok(Self { headers, len: meta.len(), etag, modified, content })
    }

    /// What the file is recognised by.
    pub(super) fn validators(&self) -> Validators<'_> {
        let etag = ETag::parse(self.etag.as_bytes()).ok();
        Validators { etag, last_modified: Some(self.modified) }
    }

    /// `len` bytes of the content from `offset` on, which are within it.
    pub(super) fn slice(&self, offset: u64, len: u64) -> Body {
        match &self.content {
            Content::Memory(bytes) => {
                let at = usize::try_from(offset).expect("within what is in memory");
                let len = usize::try_from(len).expect("within what is in memory");
                Body::from(bytes.slice(at..at + len))
            }
            Content::Open(file) => Body::file(FileSlice::new(file.clone(), offset, len)),
        }
    }
}

/// What changes when a file is replaced or written to.
fn stamp(meta: &Metadata) -> (u64, i64, i64, u64) {
    (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino())
}

/// With separators, and nanoseconds: pasted together without, two states of a file had one tag.
fn etag(meta: &Metadata) -> HeaderValue {
    let (len, seconds, nanos, inode) = stamp(meta);
    let opaque = format!("{len:x}-{seconds:x}.{nanos:x}-{inode:x}");
    ETag::strong(opaque.as_bytes()).expect("hexadecimal digits, dots and hyphens").to_value()
}

/// The content, up to one byte more than it should be.
fn read(file: &File, len: u64) -> io::Result<Bytes> {
    let mut buf = vec![0; usize::try_from(len.min(IN_MEMORY) + 1).expect("32 KiB and a byte")];
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
    use super::*;

    #[test]
    fn a_path_names_a_file_or_the_index_of_a_folder() {
        let table = [
            ("", "index.html", true),
            ("a/", "a/index.html", true),
            ("a", "a", false),
            ("a/b.txt", "a/b.txt", false),
            (".well-known/acme", ".well-known/acme", false),
            (".well-known", ".well-known", false),
            ("a..b", "a..b", false),
        ];
        for (path, below_root, is_index) in table {
            let want = Path { below_root: below_root.to_owned(), is_index };
            assert_eq!(Path::of(path, &Choices::default()), Some(want), "{path}");
        }
    }

    #[test]
    fn hidden_names_and_empty_segments_name_nothing() {
        for path in [
            ".git",
            ".git/",
            ".git/config",
            "a/.env",
            "a/.b/c",
            "/",
            "/a",
            "a//",
            "a//b",
            "...",
            "a/.well-known",
            "a/.well-known/x",
            ".well-known/.x",
            ".well-known-not",
        ] {
            assert_eq!(Path::of(path, &Choices::default()), None, "{path}");
        }
    }

    #[test]
    fn tags_of_different_states_differ_where_digits_would_run_together() {
        let dir = tempfile::tempdir().unwrap();
        let tag = |content: &str, seconds: u64| {
            let path = dir.path().join("f");
            std::fs::write(&path, content).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.set_modified(at).unwrap();
            etag(&file.metadata().unwrap())
        };
        // Time 0x11, size 1 against time 0x1, size 0x11: "111" both, without a separator.
        assert_ne!(tag("x", 0x11), tag(&"x".repeat(0x11), 0x1));
    }
}
