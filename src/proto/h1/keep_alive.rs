//! Connection persistence (RFC 9112 section 9.3).

use http::Version;

use super::scan;

/// The options of `Connection` fields that affect the connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionOptions {
    has_close: bool,
    has_keep_alive: bool,
    has_upgrade: bool,
    names_fields: bool,
}

impl ConnectionOptions {
    /// Records the options of one field.
    pub(super) fn record(&mut self, value: &[u8]) {
        for option in value.split(|&b| b == b',') {
            let option = scan::trim(option);
            let is_close = option.eq_ignore_ascii_case(b"close");
            let is_keep_alive = option.eq_ignore_ascii_case(b"keep-alive");
            let is_upgrade = option.eq_ignore_ascii_case(b"upgrade");
            self.has_close |= is_close;
            self.has_keep_alive |= is_keep_alive;
            self.has_upgrade |= is_upgrade;
            self.names_fields |= !(is_close || is_keep_alive || is_upgrade || option.is_empty());
        }
    }

    pub(super) fn has_close(&self) -> bool {
        self.has_close
    }

    pub(super) fn has_upgrade(&self) -> bool {
        self.has_upgrade
    }

    /// Returns whether there is any other option, which is usually the name of a field.
    pub(super) fn names_fields(&self) -> bool {
        self.names_fields
    }

    /// Returns whether the connection persists: not with `close`; by default in HTTP/1.1, only with
    /// `keep-alive` in HTTP/1.0.
    pub(super) fn keeps_alive(&self, version: Version) -> bool {
        !self.has_close && (version == Version::HTTP_11 || self.has_keep_alive)
    }
}
