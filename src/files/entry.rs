//! `Entry`: the result of a lookup, with everything that its responses need.

use std::{
    fs::File,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{
    backend::{BackendFile, Content, Lookup, View},
    listing::Listing,
    lookup_config::LookupConfig,
    mime::guess_content_type,
};
use crate::{
    body::{Body, FileSlice, ResidencyCache, Segment},
    net::{clock, page_cache},
    semantics::{conditional::Validators, date::HttpDate, etag::ETag, negotiate::Coding},
};

/// An entry and the status with which it is served.
pub(super) type Loaded = (StatusCode, Arc<Entry>);

/// The file, listing or directory that a path names.
#[derive(Debug)]
pub(super) enum Entry {
    File(Variants),
    /// The items of a directory without an index file.
    Listing(Listing),
    /// A directory that was requested without the trailing slash.
    Directory,
    Missing,
}

/// A file in each of its content codings.
#[derive(Debug)]
pub(super) struct Variants {
    pub(super) identity: Page,
    /// Precompressed files, preferred one first. Empty unless `precompressed` is set.
    pub(super) encoded: Vec<(Coding, Page)>,
    /// Whether Accept-Encoding selects the variant.
    pub(super) is_negotiated: bool,
}

/// One coding of a file, with everything that its responses need.
#[derive(Debug)]
pub(super) struct Page {
    /// The headers of a 200 to GET.
    pub(super) headers: HeaderMap,
    pub(super) len: u64,
    etag: Option<HeaderValue>,
    modified: Option<HttpDate>,
    content: Content,
    /// Which segments of an open file are in the page cache; `None` for bytes in memory.
    residency: Option<Arc<ResidencyCache>>,
}

impl Entry {
    /// Looks up `path`. May block.
    pub(super) fn load(view: View<'_>, path: &FilePath, config: &LookupConfig) -> io::Result<Self> {
        let FilePath { below_root: path, is_directory } = path;
        if *is_directory {
            return Self::load_directory(view, path, config);
        }
        let found = Self::load_path(view, path, false, config)?;
        let needs_index = config.html_extension || config.index_required;
        if matches!(found, Self::Directory) && needs_index {
            let inside = Self::load_directory(view, &format!("{path}/"), config)?;
            if !matches!(inside, Self::Missing) {
                return Ok(found);
            }
        } else if !matches!(found, Self::Missing) {
            return Ok(found);
        }
        // Missing, or a directory without an index file or listing, such as `blog/` beside `blog.html`.
        if config.html_extension {
            let page = Self::load_file(view, &format!("{path}.html"), config)?;
            if !matches!(page, Self::Missing) {
                return Ok(page);
            }
        }
        Ok(if config.index_required { Self::Missing } else { found })
    }

    /// Looks up a file; a directory counts as missing.
    pub(super) fn load_file(view: View<'_>, path: &str, config: &LookupConfig) -> io::Result<Self> {
        Self::load_path(view, path, true, config)
    }

    /// Looks up the index file or the listing of a directory. `directory` ends in a slash or is empty.
    fn load_directory(view: View<'_>, directory: &str, config: &LookupConfig) -> io::Result<Self> {
        for index in &config.indexes {
            let found = Self::load_file(view, &format!("{directory}{index}"), config)?;
            if !matches!(found, Self::Missing) {
                return Ok(found);
            }
        }
        let directory = if directory.is_empty() { "." } else { directory.trim_end_matches('/') };
        if config.listing
            && let Lookup::Directory = view.lookup(directory)?
        {
            return Listing::read(view, directory, config).map(Self::Listing);
        }
        Ok(Self::Missing)
    }

    fn load_path(
        view: View<'_>,
        path: &str,
        file_only: bool,
        config: &LookupConfig,
    ) -> io::Result<Self> {
        Ok(match view.lookup(path)? {
            Lookup::File(_) if config.is_excluded(path.as_bytes()) => Self::Missing,
            Lookup::File(file) => Self::File(Variants::load(view, file, path, config)?),
            // For example, a directory with the name of the index file.
            Lookup::Directory if !file_only => Self::Directory,
            Lookup::Directory | Lookup::Missing => Self::Missing,
        })
    }

    /// Returns the bytes of content in memory and the number of open files.
    pub(super) fn usage(&self) -> (usize, usize) {
        match self {
            Self::File(Variants { identity, encoded, .. }) => {
                let all = std::iter::once(identity).chain(encoded.iter().map(|(_, page)| page));
                all.map(|page| match &page.content {
                    Content::Bytes(bytes) => (bytes.len(), 0),
                    Content::File(..) => (0, 1),
                })
                .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
            }
            Self::Listing(listing) => (listing.html.len() + listing.json.len(), 0),
            Self::Directory | Self::Missing => (0, 0),
        }
    }
}

/// Codings of precompressed files with their suffixes, preferred one first.
const CODINGS: [(Coding, &str); 3] =
    [(Coding::Zstd, ".zst"), (Coding::Brotli, ".br"), (Coding::Gzip, ".gz")];

impl Variants {
    fn load(
        view: View<'_>,
        file: BackendFile,
        path: &str,
        config: &LookupConfig,
    ) -> io::Result<Self> {
        let modified = file.modified;
        let mut identity = Page::new(file, path, config);
        let mut encoded = Vec::new();
        for (coding, end) in CODINGS.into_iter().filter(|_| config.precompressed) {
            let Lookup::File(file) = view.lookup(&format!("{path}{end}"))? else { continue };
            if is_outdated(file.modified, modified) {
                tracing::debug!(
                    path,
                    end,
                    "the precompressed file is older than the file itself; it is not sent"
                );
                continue;
            }
            let mut page = Page::new(file, path, config);
            let name = coding.name().expect("all of these have one");
            page.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
            encoded.push((coding, page));
        }
        if config.precompressed {
            let pages = encoded.iter_mut().map(|(_, page)| page);
            for page in std::iter::once(&mut identity).chain(pages) {
                let value = HeaderValue::from_static("accept-encoding");
                page.headers.insert(header::VARY, value);
            }
        }
        Ok(Self { identity, encoded, is_negotiated: config.precompressed })
    }
}

/// The time by which a precompressed file may be older than the file itself, one minute. Copying a directory
/// writes its files in any order, so a smaller difference means nothing.
const MAX_AGE_DIFFERENCE: Duration = Duration::from_secs(60);

/// Returns whether a precompressed file belongs to an older version of the file.
fn is_outdated(encoded: Option<SystemTime>, identity: Option<SystemTime>) -> bool {
    match (encoded, identity) {
        (Some(encoded), Some(identity)) => {
            encoded.checked_add(MAX_AGE_DIFFERENCE).is_some_and(|latest| latest < identity)
        }
        _ => false,
    }
}

/// A path below the root, as a request names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FilePath {
    pub(super) below_root: String,
    /// Whether it ends in a slash: its index file or listing is requested.
    is_directory: bool,
}

impl FilePath {
    /// Returns the path of a file; its name is not checked.
    pub(super) fn of_file(name: &str) -> Self {
        Self { below_root: name.to_owned(), is_directory: false }
    }

    /// Parses a decoded path without its leading slash. Returns `None` for hidden and excluded names, and for empty
    /// segments, which would be second names of the same file.
    pub(super) fn parse(path: &str, config: &LookupConfig) -> Option<Self> {
        let (directories, name) = path.rsplit_once('/').map_or((None, path), |(f, n)| (Some(f), n));
        for (i, segment) in directories.into_iter().flat_map(|f| f.split('/')).enumerate() {
            // RFC 8615 section 3: `.well-known` is at the top.
            let is_hidden = segment.starts_with('.') && !(i == 0 && segment == ".well-known");
            if (is_hidden && !config.hidden) || segment.is_empty() {
                return None;
            }
        }
        if name.starts_with('.') && path != ".well-known" && !config.hidden {
            return None;
        }
        Some(Self { below_root: path.to_owned(), is_directory: name.is_empty() })
    }
}

impl Page {
    fn new(file: BackendFile, path: &str, config: &LookupConfig) -> Self {
        let BackendFile { content, modified, tag } = file;
        // An invalid tag is left out, so it never validates.
        let etag = ETag::strong(tag.as_bytes()).ok().map(ETag::to_value);
        // Last-Modified must not be later than now (RFC 9110 section 8.8.2.1). A clamped date differs each
        // time, so it must not be used as a validator.
        let now = HttpDate::from(SystemTime::now());
        let last_modified = modified.map(|at| HttpDate::from(at).min(now));
        let modified = modified.map(HttpDate::from).filter(|at| *at <= now);

        let mut headers = HeaderMap::with_capacity(7);
        let content_type = config.content_type.as_ref().and_then(|policy| policy(path));
        headers
            .insert(header::CONTENT_TYPE, content_type.unwrap_or_else(|| guess_content_type(path)));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(last_modified) = last_modified {
            headers.insert(header::LAST_MODIFIED, last_modified.to_value());
        }
        if let Some(etag) = &etag {
            headers.insert(header::ETAG, etag.clone());
        }
        if let Some(value) = config.cache_control.as_ref().and_then(|policy| policy(path)) {
            headers.insert(header::CACHE_CONTROL, value);
        }
        let residency = match &content {
            Content::File(file, len) => Some(Arc::new(prefetch(file, *len))),
            Content::Bytes(_) => None,
        };
        let len = content.len();
        Self { headers, len, etag, modified, content, residency }
    }

    /// Returns the validators of the file (RFC 9110 section 8.8).
    pub(super) fn validators(&self) -> Validators<'_> {
        let etag = self.etag.as_ref().and_then(|tag| ETag::parse(tag.as_bytes()).ok());
        Validators { etag, last_modified: self.modified }
    }

    /// Returns `len` bytes of the content from `offset` on as a body. They must be within the content.
    pub(super) fn slice(&self, offset: u64, len: u64) -> Body {
        match self.segment(offset, len) {
            Segment::File(file) => Body::file(file),
            Segment::Bytes(bytes) => Body::from(bytes),
            Segment::Pipe(_) | Segment::Trailers(_) => unreachable!("a file has neither"),
        }
    }

    /// Returns `len` bytes of the content from `offset` on as a segment of a body.
    pub(super) fn segment(&self, offset: u64, len: u64) -> Segment {
        match &self.content {
            Content::Bytes(bytes) => {
                let at = usize::try_from(offset).expect("within the content");
                let len = usize::try_from(len).expect("within the content");
                Segment::Bytes(bytes.slice(at..at + len))
            }
            Content::File(file, _) => {
                let slice = FileSlice::new(file.clone(), offset, len);
                Segment::File(match &self.residency {
                    Some(cache) => slice.with_residency(cache.clone()),
                    None => slice,
                })
            }
        }
    }
}

/// Reads the beginning of an open file, which most responses send first, into the page cache. May block.
fn prefetch(file: &File, len: u64) -> ResidencyCache {
    let to = len.min(ResidencyCache::WINDOW);
    if !page_cache::is_resident(file, 0, to) {
        page_cache::read_ahead(file, 0, to);
    }
    let now = clock::now();
    let cache = ResidencyCache::new(len, now);
    cache.mark(0, to, now);
    cache
}

#[cfg(test)]
mod tests;
