//! The messages of etcd's JSON gateway: the JSON form of its gRPC messages, with bytes in Base64 and 64-bit numbers
//! as text.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::error::BoxError;

/// Maximum size of a response with all keys: 16 MiB.
pub(super) const MAX_RANGE: usize = 16 << 20;

/// Maximum size of a message of a watch: 16 MiB.
const MAX_LINE: usize = 16 << 20;

/// All keys at a revision.
#[derive(Debug, PartialEq)]
pub(super) struct Range {
    pub(super) revision: u64,
    pub(super) entries: Vec<(String, String)>,
}

/// A message of a watch.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    Changes {
        /// That of the last change; 0 without changes.
        revision: u64,
        changes: Vec<Change>,
    },
    /// The requested revision has been compacted.
    Compacted,
}

#[derive(Debug, PartialEq)]
pub(super) enum Change {
    Put(String, String),
    Delete(String),
}

/// Returns the request for all keys with this prefix.
pub(super) fn range(prefix: &str, limit: usize) -> String {
    let (key, end) = key_range(prefix);
    json!({ "key": key, "range_end": end, "limit": limit.to_string() }).to_string()
}

/// Returns the request for changes of keys with this prefix.
pub(super) fn watch(prefix: &str, from: u64) -> String {
    let (key, end) = key_range(prefix);
    let create = json!({ "key": key, "range_end": end, "start_revision": from.to_string() });
    json!({ "create_request": create }).to_string()
}

/// Returns the first key with this prefix and the first one after all of them; `\0` is the end of all keys.
fn key_range(prefix: &str) -> (String, String) {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    let or_null = |bytes: &[u8]| STANDARD.encode(if bytes.is_empty() { b"\0" } else { bytes });
    (or_null(prefix.as_bytes()), or_null(&end))
}

pub(super) fn parse_range(text: &[u8]) -> Result<Range, BoxError> {
    let answer: Value = serde_json::from_slice(text)?;
    if answer["more"] == Value::Bool(true) {
        return Err("there are too many keys".into());
    }
    let revision = number(&answer["header"]["revision"]).ok_or("an answer without revision")?;
    let entries = answer["kvs"].as_array().into_iter().flatten().map(entry);
    Ok(Range { revision, entries: entries.collect::<Result<_, _>>()? })
}

pub(super) fn parse_watch(line: &[u8]) -> Result<Event, BoxError> {
    let message: Value = serde_json::from_slice(line)?;
    if let Some(error) = message["error"]["message"].as_str() {
        return Err(error.into());
    }
    let result = &message["result"];
    if number(&result["compact_revision"]).is_some_and(|revision| revision > 0) {
        return Ok(Event::Compacted);
    }
    if result["canceled"] == Value::Bool(true) {
        let reason = result["cancel_reason"].as_str().unwrap_or("no reason");
        return Err(format!("the watch was cancelled: {reason}").into());
    }
    if number(&result["header"]["revision"]).is_none() {
        return Err("a message without revision".into());
    }
    // The header has the revision of the store. A watch that is behind has not got all changes up to it.
    let mut revision = 0;
    let change = |event: &Value| {
        let (key, value) = entry(&event["kv"])?;
        let modified = number(&event["kv"]["mod_revision"]).ok_or("an event without revision")?;
        revision = revision.max(modified);
        let is_delete = event["type"] == "DELETE";
        Ok::<_, BoxError>(if is_delete { Change::Delete(key) } else { Change::Put(key, value) })
    };
    let changes = result["events"].as_array().into_iter().flatten().map(change);
    let changes = changes.collect::<Result<_, _>>()?;
    Ok(Event::Changes { revision, changes })
}

/// Returns a key and its value. Bytes that are not UTF-8 are replaced, so that such a value is an invalid target beside
/// valid ones.
fn entry(entry: &Value) -> Result<(String, String), BoxError> {
    let text = |name: &str| {
        let bytes = STANDARD.decode(entry[name].as_str().unwrap_or_default())?;
        Ok::<_, BoxError>(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok((text("key")?, text("value")?))
}

/// Reads a number; 64-bit numbers are strings.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Splits received bytes into lines, each of which is a message.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// The number of bytes that contain no line end.
    scanned: usize,
}

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete line.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, BoxError> {
        let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) else {
            self.scanned = self.buffer.len();
            if self.buffer.len() > MAX_LINE {
                return Err("a message is too long".into());
            }
            return Ok(None);
        };
        let rest = self.buffer.split_off(self.scanned + at + 1);
        self.scanned = 0;
        Ok(Some(std::mem::replace(&mut self.buffer, rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends_before_its_successor() {
        let decode = |text: String| STANDARD.decode(text).unwrap();
        for (prefix, end) in [("/a/", &b"/a0"[..]), ("", b"\0"), ("a\u{7f}", b"a\x80")] {
            assert_eq!(decode(key_range(prefix).1), end, "{prefix}");
        }
        assert_eq!(decode(key_range("").0), b"\0");
    }

    #[test]
    fn messages_are_read_as_etcd_writes_them() {
        let range = br#"{"header":{"cluster_id":"1","revision":"7"},"kvs":[{"key":"L2E=","value":"YjoxIHdlaWdodD0y","lease":"1"},{"key":"L2I="}],"count":"2"}"#;
        let entries = vec![("/a".into(), "b:1 weight=2".into()), ("/b".into(), String::new())];
        assert_eq!(parse_range(range).unwrap(), Range { revision: 7, entries });
        assert!(parse_range(br#"{"header":{"revision":"7"},"more":true}"#).is_err());

        let events = br#"{"result":{"header":{"revision":"9"},"events":[{"kv":{"key":"L2E=","value":"YjoxIHdlaWdodD0y","mod_revision":"7"}},{"type":"DELETE","kv":{"key":"L2I=","mod_revision":"8"}}]}}"#;
        let changes =
            vec![Change::Put("/a".into(), "b:1 weight=2".into()), Change::Delete("/b".into())];
        // A watch that is behind gets later events, too, so the revision of the store does not count.
        assert_eq!(parse_watch(events).unwrap(), Event::Changes { revision: 8, changes });
        let compacted = br#"{"result":{"header":{},"canceled":true,"compact_revision":"5"}}"#;
        assert_eq!(parse_watch(compacted).unwrap(), Event::Compacted);
        for bad in
            ["{\"error\":{\"message\":\"no\"}}", "{\"result\":{\"canceled\":true}}", "{}", "x"]
        {
            assert!(parse_watch(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn value_that_is_not_utf_8_is_read_beside_the_others() {
        let range =
            br#"{"header":{"revision":"7"},"kvs":[{"key":"L2E=","value":"/w=="},{"key":"L2I="}]}"#;
        let entries = vec![("/a".into(), "\u{fffd}".into()), ("/b".into(), String::new())];
        assert_eq!(parse_range(range).unwrap(), Range { revision: 7, entries });
    }

    #[test]
    fn lines_are_bounded_and_may_arrive_in_pieces() {
        let mut lines = Lines::default();
        for piece in ["ab", "c\nde\n", "f"] {
            lines.push(piece.as_bytes());
            while let Ok(Some(line)) = lines.next() {
                assert!(line == b"abc\n" || line == b"de\n", "{line:?}");
            }
        }
        lines.push(b"\n");
        assert_eq!(lines.next().unwrap().unwrap(), b"f\n");
        lines.push(&vec![b'x'; MAX_LINE]);
        assert!(lines.next().unwrap().is_none());
        lines.push(b"x");
        assert!(lines.next().is_err());
    }
}
