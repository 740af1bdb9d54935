//! `Command`: an invalidation, as the query of a request and as a message to other fronts.

use std::fmt::Write as _;

use super::super::{
    handle::CacheHandle,
    key::{Key, MAX_KEY},
    store::Purge,
};

/// An invalidation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) scope: CommandScope,
    pub(super) purge: Purge,
    /// Whether the response waits for the sweep.
    pub(super) waits: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CommandScope {
    Key(Key),
    Prefix(String),
    Group(String),
    All,
}

impl Command {
    /// Parses a query; `None` if it is malformed or ambiguous.
    pub(super) fn parse(query: &str, cache: &CacheHandle) -> Option<Self> {
        let (mut scope, mut purge, mut waits) = (None, Purge::Hard, false);
        for parameter in query.split('&') {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = decode(value)?;
            let named = match (name, value.is_empty()) {
                ("soft", true) => {
                    purge = Purge::Soft;
                    continue;
                }
                ("wait", true) => {
                    waits = true;
                    continue;
                }
                ("url", false) => CommandScope::Key(cache.key_of_url(&value)?),
                ("key", false) if value.len() <= MAX_KEY => CommandScope::Key(Key::restore(&value)),
                ("prefix", false) => CommandScope::Prefix(value),
                ("group", false) => CommandScope::Group(value),
                ("all", true) => CommandScope::All,
                _ => return None,
            };
            // More than one scope is ambiguous.
            if scope.replace(named).is_some() {
                return None;
            }
        }
        Some(Self { scope: scope?, purge, waits })
    }

    /// Replaces a prefix of a URL by that of the keys; `None` if no URL has this prefix.
    pub(super) fn with_url_prefix(mut self) -> Option<Self> {
        if let CommandScope::Prefix(prefix) = &mut self.scope {
            let (url, query) = match prefix.split_once('?') {
                Some((url, query)) => (url, Some(query)),
                None => (prefix.as_str(), None),
            };
            // Not as a `Uri`: the value was decoded, as the text of a key is.
            let (scheme, rest) = url.split_once("://")?;
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let path = if path.is_empty() { "/" } else { path };
            if scheme.is_empty() || path.contains('#') {
                return None; // no key contains a fragment
            }
            *prefix = Key::new(&scheme.to_ascii_lowercase(), authority, path, query)?.to_string();
        }
        Some(self)
    }

    /// Returns the query, without `wait`.
    pub(super) fn encode(&self) -> String {
        let mut query = match &self.scope {
            CommandScope::Key(key) => format!("key={}", encode(key.as_str())),
            CommandScope::Prefix(prefix) => format!("prefix={}", encode(prefix)),
            CommandScope::Group(group) => format!("group={}", encode(group)),
            CommandScope::All => "all".to_owned(),
        };
        query.push_str(if self.purge == Purge::Soft { "&soft" } else { "" });
        query
    }

    /// Applies it to a cache.
    pub(super) fn apply(&self, cache: &CacheHandle) {
        match &self.scope {
            CommandScope::Key(key) => cache.delete(key, self.purge),
            CommandScope::Prefix(prefix) => cache.delete_prefix(prefix, self.purge),
            CommandScope::Group(group) => cache.invalidate(group, self.purge),
            CommandScope::All => cache.delete_all(self.purge),
        }
    }
}

/// Percent-encodes a value.
fn encode(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            text.push(byte.into());
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Decodes a percent-encoded value; `None` if it is malformed or not UTF-8.
fn decode(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => return None, // ambiguous: a space in forms, a plus elsewhere
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheLayer;

    #[test]
    fn command_is_read_as_it_was_written() {
        let cache = CacheLayer::new().handle();
        let key = Key::new("https", "a.example", "/caf\u{e9} &+%25", Some("b=c&d=%2B")).unwrap();
        for scope in [
            CommandScope::Key(key),
            CommandScope::Prefix("http://a/=&?#".to_owned()),
            CommandScope::Group("a group+%".to_owned()),
            CommandScope::All,
        ] {
            for purge in [Purge::Hard, Purge::Soft] {
                let command = Command { scope: scope.clone(), purge, waits: false };
                assert_eq!(Command::parse(&command.encode(), &cache), Some(command));
            }
        }
    }
}
