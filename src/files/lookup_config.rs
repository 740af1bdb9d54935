//! `LookupConfig`: which file a path stands for, and with which header fields.

use std::fmt;

use http::{HeaderValue, StatusCode};

/// Returns the value of a header field for a path below the root.
pub(super) type Policy = dyn Fn(&str) -> Option<HeaderValue> + Send + Sync;

pub(super) struct LookupConfig {
    /// The normal path of the only file, which answers every request path.
    pub(super) single_file: Option<Box<str>>,
    /// Names of index files; the first one that exists answers for its directory.
    pub(super) indexes: Vec<String>,
    /// Overrides the Content-Type that is guessed from the extension.
    pub(super) content_type: Option<Box<Policy>>,
    pub(super) cache_control: Option<Box<Policy>>,
    pub(super) precompressed: bool,
    pub(super) html_extension: bool,
    pub(super) listing: bool,
    pub(super) hidden: bool,
    /// Endings of names that are treated as missing.
    pub(super) excluded_suffixes: Vec<String>,
    /// Treats a directory without an index file and without a listing as missing.
    pub(super) index_required: bool,
    /// The page for paths that name nothing, and its status.
    pub(super) fallback_page: Option<(String, StatusCode)>,
}

impl Default for LookupConfig {
    fn default() -> Self {
        Self {
            single_file: None,
            indexes: vec!["index.html".to_owned()],
            content_type: None,
            cache_control: None,
            precompressed: false,
            html_extension: false,
            listing: false,
            hidden: false,
            excluded_suffixes: Vec::new(),
            index_required: false,
            fallback_page: None,
        }
    }
}

impl LookupConfig {
    /// Returns whether a name, or a path, has an ending that is treated as missing.
    pub(super) fn is_excluded(&self, name: &[u8]) -> bool {
        self.excluded_suffixes.iter().any(|suffix| {
            let at = name.len().checked_sub(suffix.len());
            at.is_some_and(|at| name[at..].eq_ignore_ascii_case(suffix.as_bytes()))
        })
    }
}

impl fmt::Debug for LookupConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupConfig")
            .field("single_file", &self.single_file)
            .field("indexes", &self.indexes)
            .field("precompressed", &self.precompressed)
            .field("html_extension", &self.html_extension)
            .field("listing", &self.listing)
            .field("hidden", &self.hidden)
            .field("excluded_suffixes", &self.excluded_suffixes)
            .field("fallback_page", &self.fallback_page)
            .finish_non_exhaustive()
    }
}

/// Returns whether a file name contains a hash, so that its content never changes: `app.3f9a1c77.js`,
/// `index-BqG3x9_a.css`, `main.3f9a1c77.chunk.js`.
///
/// One of its parts between dots or hyphens, neither the first nor the last, must look like a hash: eight
/// or more hexadecimal digits of one case, with both letters and digits, or eight or more letters,
/// digits and `_` that change between lower case, upper case, digits and `_` at least five times. Words
/// (`jquery`), dates (`20240131`) and words with a number at the end (`version2`) do not. This errs towards
/// `false`, since some hashes look like words: for a directory that contains only such files, check the directory
/// instead (`path.starts_with("assets/")`).
///
/// ```
/// use vestibule::files::is_hashed;
///
/// assert!(is_hashed("assets/app.3f9a1c77.js") && is_hashed("index-BqG3x9_a.css"));
/// assert!(!is_hashed("jquery.min.js") && !is_hashed("report-20240131.pdf") && !is_hashed("a.html"));
/// ```
pub fn is_hashed(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let Some((stem, _extension)) = name.rsplit_once('.') else { return false };
    stem.split(['.', '-']).skip(1).any(is_hash)
}

/// Length of the shortest hashes that bundlers use.
const MIN_HASH_LEN: usize = 8;

fn is_hash(part: &str) -> bool {
    let bytes = part.as_bytes();
    if bytes.len() < MIN_HASH_LEN || !bytes.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'_')
    {
        return false;
    }
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    let lower = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let upper = |b: &u8| matches!(b, b'0'..=b'9' | b'A'..=b'F');
    if (bytes.iter().all(lower) || bytes.iter().all(upper)) && digits > 0 && digits < bytes.len() {
        return true;
    }
    let kind = |b: u8| (b.is_ascii_digit(), b.is_ascii_uppercase(), b == b'_');
    digits > 0 && bytes.windows(2).filter(|pair| kind(pair[0]) != kind(pair[1])).count() >= 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundler_hashes_are_distinguished_from_words_and_dates() {
        for name in [
            "static/js/main.3f9a1c77.chunk.js",
            "main.3f9a1c77.min.js",
            "main.3f9a1c77.js.map",
            "app.d41d8cd98f00b204e9800998ecf8427e.css",
            "APP.3F9A1C77.JS",
            "index-BqG3x9_a.css",
            "vendor-B1x9GqZ7.js",
            "index.4Tm8Kq2L.mjs",
            "css/base.55e7cbb9ba48.css",
        ] {
            assert!(is_hashed(name), "{name}");
        }
        for name in [
            "user-manual-version2.pdf",
            "report-20240131.pdf",
            "price_list.20240131.xlsx",
            "photo-vacation1.jpg",
            "my-document2024.pdf",
            "team-photo_2024.jpg",
            "a-facade.js",
            "a-defaced.js",
            "a-effaceable.js",
            "3f9a1c77.js",
            "app.3f9a1c77",
            "app.3f9a1c7.js",
            "jquery.min.js",
            "jquery-3.7.1.min.js",
            "my-iPhone4s.jpg",
            "a-JavaScript.html",
            "report-Q3Results.pdf",
            "the-README_FIRST.txt",
            "",
            ".",
            "a.",
        ] {
            assert!(!is_hashed(name), "{name}");
        }
    }
}
