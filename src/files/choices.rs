//! Which file a path stands for, and with which fields: what a folder's service can be told.

use std::{fmt, sync::Arc};

use http::{HeaderValue, StatusCode};

/// Cache-Control for a path below the root.
pub(super) type Policy = dyn Fn(&str) -> Option<HeaderValue> + Send + Sync;

#[derive(Clone)]
pub(super) struct Choices {
    /// What a folder is answered with.
    pub(super) index: String,
    pub(super) cache_control: Option<Arc<Policy>>,
    pub(super) precompressed: bool,
    pub(super) html_extension: bool,
    pub(super) listing: bool,
    pub(super) hidden: bool,
    /// What stands for a path that names nothing, and its status.
    pub(super) otherwise: Option<(String, StatusCode)>,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            index: "index.html".to_owned(),
            cache_control: None,
            precompressed: false,
            html_extension: false,
            listing: false,
            hidden: false,
            otherwise: None,
        }
    }
}

impl fmt::Debug for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choices")
            .field("index", &self.index)
            .field("precompressed", &self.precompressed)
            .field("html_extension", &self.html_extension)
            .field("listing", &self.listing)
            .field("hidden", &self.hidden)
            .field("otherwise", &self.otherwise)
            .finish_non_exhaustive()
    }
}

/// Has this name a hash in it, so that its content never changes: `app.3f9a1c77.js`,
/// `index-BqG3x9_a.css`?
///
/// A part between dots or hyphens, not the first and not the last, of at least eight letters,
/// digits, `-` or `_`, with a digit in it. A hyphen before the last dot counts as a divider too.
///
/// ```
/// use vestibule::files::is_hashed;
///
/// assert!(is_hashed("assets/app.3f9a1c77.js") && is_hashed("index-BqG3x9_a.css"));
/// assert!(!is_hashed("jquery.min.js") && !is_hashed("report-2024.pdf") && !is_hashed("a.html"));
/// ```
pub fn is_hashed(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let Some((stem, _extension)) = name.rsplit_once('.') else { return false };
    let Some((_, hash)) = stem.rsplit_once(['.', '-']) else { return false };
    hash.len() >= 8
        && hash.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && hash.bytes().any(|b| b.is_ascii_digit())
}
