//! The task that applies the invalidations of other fronts.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_core::Stream;
use redis::{AsyncTypedCommands, Client, Msg, RedisError};
use tokio::time::{sleep, timeout};

use super::{super::command::Command, Inner, PURGE_PAUSE, PURGE_PING};

/// The interval at which the task checks whether the channel was dropped, 1 second.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Subscribes repeatedly until the channel is dropped.
pub(super) async fn run(inner: Weak<Inner>) {
    let mut last = None;
    let mut origin = None;
    let mut is_reported = false;
    while let Some(client) = inner.upgrade().map(|inner| inner.client.clone()) {
        let result = subscribe(&inner, client, &mut last, &mut origin).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.is_subscribed.swap(false, Relaxed) {
            is_reported = false;
        }
        if let Err(error) = result
            && !std::mem::replace(&mut is_reported, true)
        {
            tracing::warn!(%error, "cannot subscribe to invalidations: those of other fronts are missed until Redis is reachable");
        }
        drop(inner);
        sleep(PURGE_PAUSE).await;
    }
}

/// Subscribes once, until the connection breaks or the channel is dropped. `last` is the id of the last message, and `origin`
/// the replication id of the server that it came from.
async fn subscribe(
    inner: &Weak<Inner>,
    client: Client,
    last: &mut Option<String>,
    origin: &mut Option<String>,
) -> Result<(), Failure> {
    let Some(channel) = inner.upgrade().map(|inner| inner.channel.clone()) else { return Ok(()) };
    let subscribed = async {
        let (mut sink, stream) = client.get_async_pubsub().await?.split();
        sink.subscribe(&channel).await?;
        // Read after the subscription: later messages are in the stream.
        let mut connection = client.get_multiplexed_async_connection().await?;
        let current = connection.get(&channel).await?.unwrap_or_default();
        let mut info = redis::cmd("INFO");
        let info = info.arg("replication").query_async::<String>(&mut connection).await.ok();
        let id = info.as_deref().and_then(replication_id).map(str::to_owned);
        Ok::<_, RedisError>((sink, stream, current, id))
    };
    let (mut sink, mut stream, current, id) = timeout(PURGE_PING, subscribed).await??;
    let Some(channel) = inner.upgrade() else { return Ok(()) };
    // Without the id of a message nothing was published, or Redis has lost its data since. A replica that became the
    // primary may have lost the last message.
    let is_same_data = id.is_some() && *origin == id;
    if current.is_empty() || last.as_ref() != Some(&current) || !is_same_data {
        channel.reset();
    }
    *last = Some(current);
    *origin = id;
    channel.is_subscribed.store(true, Relaxed);
    tracing::info!("subscribed to the invalidations of other fronts");
    drop(channel);
    let mut silent_for = Duration::ZERO;
    loop {
        let next = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx));
        match timeout(CHECK_INTERVAL, next).await {
            Ok(message) => {
                let Some(inner) = inner.upgrade() else { return Ok(()) };
                inner.receive(&message.ok_or(Failure::Closed)?, last);
                silent_for = Duration::ZERO;
            }
            Err(_) if inner.strong_count() == 0 => return Ok(()),
            Err(_) => {
                silent_for += CHECK_INTERVAL;
                if silent_for >= PURGE_PING {
                    timeout(PURGE_PING, sink.ping::<redis::Value>()).await??;
                    silent_for = Duration::ZERO;
                }
            }
        }
    }
}

/// Returns the id of a server's history of changes, from its `INFO replication`. It changes when a replica becomes the
/// primary.
fn replication_id(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("master_replid:"))
}

/// The end of a subscription.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the connection to Redis was closed")]
    Closed,
    #[error("Redis has not answered in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("Redis failed: {0}")]
    Redis(#[from] RedisError),
}

impl Inner {
    /// Invalidates everything, since messages may have been missed.
    fn reset(&self) {
        self.cache.delete_all(self.on_missed);
        self.resets.fetch_add(1, Relaxed);
    }

    /// Applies a message, which consists of the id of the previous message, its own id, the id of its sender, and a command.
    fn receive(&self, message: &Msg, last: &mut Option<String>) {
        let text = str::from_utf8(message.get_payload_bytes()).ok();
        let parts = text.and_then(|text| {
            let mut parts = text.splitn(4, ' ');
            Some((parts.next()?, parts.next()?, parts.next()?, parts.next()?))
        });
        let Some((before, id, sender, command)) = parts else {
            tracing::warn!("an unknown message about invalidations: everything is invalidated");
            *last = None;
            return self.reset();
        };
        // The first messages may have arrived before the last id was read.
        let is_next = last.as_deref() == Some(before) || last.as_deref() == Some(id);
        *last = Some(id.to_owned());
        if !is_next {
            return self.reset();
        }
        if sender == self.sender {
            return; // it has taken effect already
        }
        match Command::parse(command, &self.cache) {
            Some(command) => {
                command.apply(&self.cache);
                self.received.fetch_add(1, Relaxed);
            }
            None => {
                tracing::warn!("an unknown message about invalidations: everything is invalidated");
                self.reset();
            }
        }
    }
}
