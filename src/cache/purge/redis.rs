//! `PurgeChannel`: invalidation at several fronts over a Redis channel.

mod subscriber;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{
    Client, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::timeout;

use super::{
    super::{handle::CacheHandle, key::Key, store::Purge},
    FanOut, Published, PurgeService,
    command::{Command, CommandScope},
};
use crate::error::BoxError;

/// The default name of the channel, and of the key with the id of its last message.
pub const PURGE_CHANNEL: &str = "vestibule:purge";

/// The pause before the subscriber reconnects, 1 second.
pub const PURGE_PAUSE: Duration = Duration::from_secs(1);

/// The interval and the timeout of the pings on the subscriber's connection, 5 seconds.
pub const PURGE_PING: Duration = Duration::from_secs(5);

/// The default timeout of sending an invalidation, 1 second.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum number of messages that wait to be sent, 1,024.
const MAX_PENDING: usize = 1024;

/// Publishes a message with its id and the id of the previous message, so that a subscriber detects a missed one.
const PUBLISH: &str = r"
local before = redis.call('GET', KEYS[1]) or ''
redis.call('SET', KEYS[1], ARGV[1])
return redis.call('PUBLISH', KEYS[1], table.concat({before, ARGV[1], ARGV[2], ARGV[3]}, ' '))
";

/// An error of a [`PurgeChannel`].
#[derive(Debug, thiserror::Error)]
pub enum PurgeChannelError {
    /// The URL is not a Redis URL.
    #[error("the URL is not a Redis URL: {0}")]
    Url(#[source] redis::RedisError),
    /// There is no Tokio runtime.
    #[error("the subscriber needs a Tokio runtime")]
    NoRuntime,
    /// Redis has refused the message.
    #[error("Redis has refused an invalidation: {0}")]
    Refused(#[source] redis::RedisError),
    /// Redis has not answered in time.
    #[error("Redis has not answered within {0:?}")]
    Timeout(Duration),
}

/// Counters of a channel. Returned by [`PurgeChannel::stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PurgeChannelStats {
    /// Invalidations that were sent.
    pub sent: u64,
    /// Invalidations that could not be sent.
    pub failed: u64,
    /// Invalidations of other fronts that were applied.
    pub received: u64,
    /// Invalidations of everything, because messages may have been missed. At least one, after the start.
    pub resets: u64,
    /// Whether the front is subscribed.
    pub is_subscribed: bool,
}

/// Options of a [`PurgeChannel`]; created by [`CacheHandle::purge_channel`].
#[must_use = "a channel is made by connect()"]
pub struct PurgeChannelBuilder {
    cache: CacheHandle,
    url: String,
    channel: String,
    timeout: Duration,
    on_missed: Purge,
}

/// A Redis channel that sends invalidations to several fronts. Cheap to clone.
///
/// An invalidation takes effect at this front at once, and is then published. Other fronts apply it when they receive it,
/// usually within a millisecond. An error means that it was not published; it is safe to repeat it.
///
/// **Redis is not used to serve requests.** While a front is not subscribed, it misses messages and serves its stored
/// responses. Each message has the id of the previous one. A front that subscribes again and has missed a message, or cannot
/// know because Redis has lost its data or a replica has become the primary, invalidates everything, [softly](Purge::Soft) by
/// default: no response counts as fresh. If stale ones may be used and must not be after a missed invalidation, set
/// [`on_missed`](PurgeChannelBuilder::on_missed) to [`Purge::Hard`]. Each front does the same after its start. A lost connection is detected after at most two
/// times [`PURGE_PING`], and replaced after [`PURGE_PAUSE`].
///
/// Every client that can publish in this Redis can invalidate responses.
///
/// ```no_run
/// use vestibule::cache::{CacheLayer, Purge};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = CacheLayer::new();
/// let fronts = layer.handle().purge_channel("redis://10.0.0.5/").connect()?;
/// fronts.invalidate("front-page", Purge::Soft).await?; // at all fronts
/// let service = fronts.purge_service("a token of the site"); // the same over HTTP
/// # drop(service); Ok(()) }
/// ```
#[derive(Clone)]
pub struct PurgeChannel(Arc<Inner>);

struct Inner {
    cache: CacheHandle,
    client: Client,
    channel: String,
    /// Created by the first message, in its runtime.
    connection: OnceLock<ConnectionManager>,
    script: Script,
    timeout: Duration,
    on_missed: Purge,
    /// Identifies the messages of this front.
    sender: String,
    last_message: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
    received: AtomicU64,
    resets: AtomicU64,
    is_subscribed: AtomicBool,
}

impl CacheHandle {
    /// Returns a builder for a [`PurgeChannel`]. `redis` is the URL of Redis: `redis://host:6379/0` or `redis+unix:///path`.
    pub fn purge_channel(&self, redis: impl Into<String>) -> PurgeChannelBuilder {
        PurgeChannelBuilder {
            cache: self.clone(),
            url: redis.into(),
            channel: PURGE_CHANNEL.to_owned(),
            timeout: TIMEOUT,
            on_missed: Purge::Soft,
        }
    }
}

impl PurgeChannelBuilder {
    /// Sets the name of the channel. Defaults to [`PURGE_CHANNEL`]. Fronts of different sites need different names.
    pub fn channel(mut self, name: impl Into<String>) -> Self {
        self.channel = name.into();
        self
    }

    /// Sets the timeout of sending an invalidation. Defaults to 1 second.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// Sets how everything is invalidated when messages were missed. Defaults to [`Purge::Soft`].
    pub fn on_missed(mut self, purge: Purge) -> Self {
        self.on_missed = purge;
        self
    }

    /// Spawns the subscriber, in the current Tokio runtime. The subscriber ends with the last clone of the channel. Until then
    /// it reconnects whenever its connection breaks.
    ///
    /// # Errors
    /// If the URL is not a Redis URL, or if there is no runtime. It is not an error if Redis is unreachable.
    pub fn connect(self) -> Result<PurgeChannel, PurgeChannelError> {
        let Self { cache, url, channel, timeout, on_missed } = self;
        let client = Client::open(url).map_err(PurgeChannelError::Url)?;
        let runtime = tokio::runtime::Handle::try_current();
        let runtime = runtime.map_err(|_| PurgeChannelError::NoRuntime)?;
        let inner = Arc::new(Inner {
            cache,
            client,
            channel,
            connection: OnceLock::new(),
            script: Script::new(PUBLISH),
            timeout,
            on_missed,
            sender: random_id(),
            last_message: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            is_subscribed: AtomicBool::new(false),
        });
        runtime.spawn(subscriber::run(Arc::downgrade(&inner)));
        Ok(PurgeChannel(inner))
    }
}

/// Returns 128 bits that no other front has.
fn random_id() -> String {
    let [a, b] = [(); 2].map(|()| RandomState::new().hash_one(0));
    format!("{a:016x}{b:016x}")
}

impl PurgeChannel {
    /// Invalidates all variants of a key, at all fronts.
    ///
    /// # Errors
    /// If it was not sent to the other fronts. It has taken effect at this one, as with the methods below.
    pub async fn delete(&self, key: &Key, purge: Purge) -> Result<(), PurgeChannelError> {
        self.run(CommandScope::Key(key.clone()), purge).await
    }

    /// Invalidates all keys that begin with `prefix`, at all fronts.
    ///
    /// # Errors
    /// If it was not sent.
    pub async fn delete_prefix(&self, prefix: &str, purge: Purge) -> Result<(), PurgeChannelError> {
        self.run(CommandScope::Prefix(prefix.to_owned()), purge).await
    }

    /// Invalidates all responses of a group, at all fronts.
    ///
    /// # Errors
    /// If it was not sent.
    pub async fn invalidate(&self, group: &str, purge: Purge) -> Result<(), PurgeChannelError> {
        self.run(CommandScope::Group(group.to_owned()), purge).await
    }

    /// Invalidates everything, at all fronts.
    ///
    /// # Errors
    /// If it was not sent.
    pub async fn delete_all(&self, purge: Purge) -> Result<(), PurgeChannelError> {
        self.run(CommandScope::All, purge).await
    }

    /// Returns a [`PurgeService`] whose invalidations take effect at all fronts. It answers 503 if one was not sent.
    ///
    /// # Panics
    /// If the token is shorter than [`MIN_TOKEN`](super::super::MIN_TOKEN).
    pub fn purge_service(&self, token: &str) -> PurgeService {
        let fan_out: Option<Arc<dyn FanOut>> = Some(Arc::new(self.clone()));
        PurgeService { fan_out, ..self.0.cache.purge_service(token) }
    }

    /// Returns the current counters.
    pub fn stats(&self) -> PurgeChannelStats {
        let inner = &*self.0;
        PurgeChannelStats {
            sent: inner.sent.load(Relaxed),
            failed: inner.failed.load(Relaxed),
            received: inner.received.load(Relaxed),
            resets: inner.resets.load(Relaxed),
            is_subscribed: inner.is_subscribed.load(Relaxed),
        }
    }

    async fn run(&self, scope: CommandScope, purge: Purge) -> Result<(), PurgeChannelError> {
        let command = Command { scope, purge, waits: false };
        command.apply(&self.0.cache);
        self.0.publish(&command.encode()).await
    }
}

impl FanOut for PurgeChannel {
    fn publish(&self, command: String) -> Published {
        let inner = self.0.clone();
        Box::pin(async move { inner.publish(&command).await.map_err(BoxError::from) })
    }
}

impl Inner {
    async fn publish(&self, command: &str) -> Result<(), PurgeChannelError> {
        let result = self.send(command).await;
        let counter = if result.is_ok() { &self.sent } else { &self.failed };
        counter.fetch_add(1, Relaxed);
        result
    }

    /// Sends a message. If the connection was broken, which is found only by using it, sends another one over the next.
    async fn send(&self, command: &str) -> Result<(), PurgeChannelError> {
        let mut connection = self.connection().map_err(PurgeChannelError::Refused)?;
        let sent = async {
            match self.call(&mut connection, command).await {
                Err(error) if error.is_connection_dropped() => {
                    self.call(&mut connection, command).await
                }
                result => result,
            }
        };
        match timeout(self.timeout, sent).await {
            Ok(result) => result.map_err(PurgeChannelError::Refused),
            Err(_) => Err(PurgeChannelError::Timeout(self.timeout)),
        }
    }

    /// Calls the script once, with an id of its own: Redis may have executed a call whose response is lost, and others after it.
    async fn call(
        &self,
        connection: &mut ConnectionManager,
        command: &str,
    ) -> redis::RedisResult<()> {
        let id = format!("{}-{}", self.sender, self.last_message.fetch_add(1, Relaxed));
        let mut call = self.script.key(&self.channel);
        call.arg(id).arg(&self.sender).arg(command);
        call.invoke_async::<u64>(connection).await.map(drop)
    }

    fn connection(&self) -> redis::RedisResult<ConnectionManager> {
        if let Some(connection) = self.connection.get() {
            return Ok(connection.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_concurrency_limit(MAX_PENDING);
        let made = ConnectionManager::new_lazy_with_config(self.client.clone(), config)?;
        Ok(self.connection.get_or_init(|| made).clone())
    }
}

impl fmt::Debug for PurgeChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PurgeChannel").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl fmt::Debug for PurgeChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL, which may contain a password.
        f.debug_struct("PurgeChannelBuilder")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}
