//! `EtcdSource`: the keys of etcd with a prefix.

mod json;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use http::{Method, Request, header::CONTENT_TYPE};
use tokio::time::sleep;

use self::json::{Change, Event, Lines, Range};
use super::{Target, Update, steps::Steps};
use crate::{
    body::Body,
    error::BoxError,
    policy::backoff::Backoff,
    upstream::{
        Upstream,
        call::{next_frame, send},
    },
};

/// Pauses after failures: from 200 ms to 10 s.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// Maximum number of keys. More is an error.
const MAX_KEYS: usize = super::MAX_TARGETS;

type Item = Result<Update, BoxError>;

/// Follows the etcd keys with a prefix. Each value is a [`Target`], for example `10.0.0.1:3000 weight=2`. With an
/// empty value, the rest of the key is the address.
///
/// It reads all keys, and then watches for changes from that revision on, so that none is missed. A broken watch is
/// resumed from the last revision. If that has been compacted, or a message is invalid, all keys are read again.
/// Servers that are down are skipped. A value that is not a target is ignored, with a warning.
///
/// It uses etcd's JSON gateway (v3.4 and later), over the connections of an [`Upstream`], without TLS.
///
/// ```no_run
/// use vestibule::upstream::discover::EtcdSource;
///
/// let source = EtcdSource::new(["10.0.0.1:2379", "10.0.0.2:2379"], "/services/app/")?;
/// # drop(source);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub struct EtcdSource(Steps<Item, Watcher>);

struct Watcher {
    etcd: Upstream,
    prefix: String,
    keys: BTreeMap<String, Target>,
    /// The last revision in `keys`; `None` if all keys must be read.
    revision: Option<u64>,
    watch: Option<Watch>,
    failures: u32,
}

/// The response body of a watch.
struct Watch {
    body: Body,
    lines: Lines,
}

impl EtcdSource {
    /// Follows the keys with this prefix, on any of these servers.
    ///
    /// # Errors
    /// An address that cannot be parsed, or none at all.
    pub fn new<A: AsRef<str>>(
        servers: impl IntoIterator<Item = A>,
        prefix: impl Into<String>,
    ) -> io::Result<Self> {
        let watcher = Watcher {
            etcd: Upstream::new(servers)?,
            prefix: prefix.into(),
            keys: BTreeMap::new(),
            revision: None,
            watch: None,
            failures: 0,
        };
        Ok(Self(Steps::new(watcher, |watcher| Box::pin(watcher.next()))))
    }
}

impl Watcher {
    /// Waits for the next change of the set, or an error.
    async fn next(mut self) -> (Option<Item>, Self) {
        loop {
            if self.failures > 0 {
                sleep(RETRY.delay(self.failures)).await;
            }
            let result = match (self.revision, &mut self.watch) {
                (None, _) => self.read_all().await.map(|()| true),
                (Some(revision), None) => self.begin_watch(revision).await.map(|()| false),
                (Some(_), Some(_)) => self.read_watch().await,
            };
            match result {
                Ok(is_changed) => {
                    // The begin of a watch does not end a series of failures; a changed set does.
                    self.failures = if is_changed { 0 } else { self.failures };
                    if is_changed {
                        let targets = self.keys.values().cloned().collect();
                        return (Some(Ok(Update::Set(targets))), self);
                    }
                }
                Err(error) => {
                    self.watch = None;
                    self.failures = self.failures.saturating_add(1);
                    // The watch of an idle prefix ends when the server has sent nothing for a minute.
                    if self.failures > 1 {
                        let error = format!("etcd prefix {}: {error}", self.prefix);
                        return (Some(Err(error.into())), self);
                    }
                }
            }
        }
    }

    /// Reads all keys.
    async fn read_all(&mut self) -> Result<(), BoxError> {
        self.watch = None;
        let mut body = self.post("/v3/kv/range", json::range(&self.prefix, MAX_KEYS)).await?;
        let mut text = Vec::new();
        while let Some(data) = next_frame(&mut body).await {
            text.extend_from_slice(&data?);
            if text.len() > json::MAX_RANGE {
                return Err("the answer is too long".into());
            }
        }
        let Range { revision, entries } = json::parse_range(&text)?;
        self.keys.clear();
        for (key, value) in entries {
            self.put(key, &value);
        }
        self.revision = Some(revision);
        Ok(())
    }

    /// Begins a watch of all changes after `revision`.
    async fn begin_watch(&mut self, revision: u64) -> Result<(), BoxError> {
        let body = self.post("/v3/watch", json::watch(&self.prefix, revision + 1)).await?;
        self.watch = Some(Watch { body, lines: Lines::default() });
        Ok(())
    }

    /// Reads the next message of the watch. Returns whether keys have changed.
    async fn read_watch(&mut self) -> Result<bool, BoxError> {
        let watch = self.watch.as_mut().ok_or("there is no watch")?;
        let message = loop {
            match watch.lines.next() {
                Ok(None) => {}
                Ok(Some(line)) => break json::parse_watch(&line),
                Err(error) => break Err(error),
            }
            match next_frame(&mut watch.body).await {
                Some(data) => watch.lines.push(&data?),
                None => return Err("the watch has ended".into()),
            }
        };
        // A watch from the same revision would get the invalid message again.
        let message = message.inspect_err(|_| self.revision = None);
        match message? {
            Event::Compacted => {
                self.revision = None;
                self.watch = None;
                Ok(false)
            }
            Event::Changes { revision, changes } => {
                // The first message of a watch contains the current revision and no change.
                let is_changed = !changes.is_empty();
                for change in changes {
                    match change {
                        Change::Put(key, value) => self.put(key, &value),
                        Change::Delete(key) => drop(self.keys.remove(&key)),
                    }
                }
                self.revision = self.revision.max(Some(revision));
                self.failures = 0;
                Ok(is_changed)
            }
        }
    }

    fn put(&mut self, key: String, value: &str) {
        let text = if value.trim().is_empty() {
            key.strip_prefix(&self.prefix).unwrap_or(&key)
        } else {
            value
        };
        match text.parse() {
            Ok(target) => drop(self.keys.insert(key, target)),
            Err(error) => {
                tracing::warn!(target: "vestibule::upstream", key, %error, "endpoint ignored");
                self.keys.remove(&key);
            }
        }
    }

    /// Not an async function, since its future must not borrow the watcher, whose body is not `Sync`.
    fn post(
        &self,
        path: &'static str,
        json: String,
    ) -> impl Future<Output = Result<Body, BoxError>> + Send + use<> {
        let etcd = self.etcd.clone();
        async move { post(etcd, path, json).await }
    }
}

async fn post(etcd: Upstream, path: &'static str, json: String) -> Result<Body, BoxError> {
    let request = Request::builder().method(Method::POST).uri(path);
    let request = request.header(CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(json))?;
    let response = send(etcd, request).await?;
    if !response.status().is_success() {
        return Err(format!("{path}: status {}", response.status().as_u16()).into());
    }
    Ok(response.into_body())
}

impl Stream for EtcdSource {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        Pin::new(&mut self.0).poll_next(cx)
    }
}

impl fmt::Debug for EtcdSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSource").finish_non_exhaustive()
    }
}
