//! A shared cache of responses (RFC 9111) as a layer.
//!
//! [`CacheLayer`] wraps any service, called the *origin* here: upstream servers, an application's workers, files, or an
//! `axum::Router`. It stores responses as far as the origin permits, and answers requests with them.
//!
//! ```
//! use std::time::Duration;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use vestibule::{Body, BoxError, Request, Response, cache::CacheLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
//! let layer = CacheLayer::builder()
//!     .capacity(256 << 20)
//!     .stale_while_revalidate(Duration::from_secs(30))
//!     .cache_status("front")
//!     .build();
//! let cache = layer.handle(); // to invalidate, and to read counters
//! let site = ServiceBuilder::new().layer(layer).service(service_fn(|_: Request| async {
//!     let response = Response::builder().header("cache-control", "max-age=60");
//!     Ok::<_, BoxError>(response.body(Body::from("hello"))?)
//! }));
//!
//! for expected in ["front; fwd=uri-miss; stored", "front; hit; ttl="] {
//!     let request = Request::get("http://example.com/").body(Body::empty())?;
//!     let response = site.clone().oneshot(request).await?;
//!     assert!(response.headers()["cache-status"].to_str()?.starts_with(expected));
//! }
//! assert_eq!(cache.stats().hits, 1);
//! # Ok(()) }
//! ```
//!
//! # What it does
//!
//! - **Decisions** follow [`semantics::cache`](crate::semantics::cache), with the configured [lifetimes](CacheBuilder) for
//!   responses without their own.
//! - **Single flight**: requests for the same response share one fetch. A content that is not there with its head is read by
//!   a task, and each client reads it while it is received, at its own pace. If the response cannot be shared, each request is
//!   forwarded by itself, and later requests do not wait for each other for [10 seconds](HIT_FOR_MISS). This includes
//!   responses that are stored but must be validated before each use: those without a lifetime, and those with `no-cache`. A
//!   request waits at most [`fill_timeout`](CacheBuilder::fill_timeout) for the head of the response.
//!   [`collapse_if`](CacheBuilder::collapse_if) disables it by route.
//! - **Stale responses** are used while they are revalidated in the background, while the origin fails, and
//!   [while it is overloaded](CacheBuilder::stale_while), if the response permits it.
//! - **Early refresh**: one of many requests refreshes a response shortly before it expires, so that a response that is often
//!   requested does not expire.
//! - **Early hints** ([optional](CacheBuilder::early_hints)): browsers get the `Link` fields of a stale response while it is
//!   fetched again.
//! - **Variants** by `Vary`, with `Accept-Encoding` and `Accept-Language` in a normal form. `Accept-Encoding` is also
//!   forwarded in its normal form.
//! - **Equivalent queries** by `No-Vary-Search` share a response ([optional](CacheBuilder::no_vary_search)).
//! - **Ranges and conditions** of requests are evaluated on stored responses. Partial responses are not stored.
//! - **Invalidation** by unsafe requests, by [`CacheHandle`] with a key, a prefix or a group, and over HTTP by
//!   [`PurgeService`].
//!
//! # What is not stored
//!
//! - responses to methods other than GET, and partial responses;
//! - responses with `no-store` or `private`;
//! - responses to requests with `Authorization`, unless they have `public`, `s-maxage` or `must-revalidate`;
//! - responses with `Set-Cookie`, unless they have `public` or `s-maxage`. The cookie itself is stored only with
//!   [`SetCookie::Store`];
//! - contents longer than [`max_object`](CacheBuilder::max_object), or [`max_disk_object`](CacheBuilder::max_disk_object) with
//!   a store on disk;
//! - any response while the [budget](CacheBuilder::budget) is above its soft limit.
//!
//! Forwarded without a lookup are requests with content, `Upgrade`, `If-Match` or `If-Unmodified-Since`, requests without a
//! host or with more than one, and requests with a path that has no
//! [normal form](crate::semantics::target::normalize). Trailers are dropped.
//!
//! # Time
//!
//! Ages count by the monotonic clock, so a wall clock that is set back makes no stale response fresh. The monotonic clock stands
//! still while the system sleeps, and while a virtual machine is paused. So if the wall clock advances by more than a second
//! against it, which is noticed within a second, that counts as time that has passed. If it was a correction of a wrong time,
//! responses count as older than they are, and are validated earlier.
//!
//! # Bounds
//!
//! | what | default |
//! |---|---|
//! | bytes in memory | [`CAPACITY`], 64 MiB, and the budget |
//! | content of a response | [`MAX_OBJECT`], 1 MiB |
//! | variants of a key | [`MAX_VARIANTS`], 16 |
//! | fields in `Vary` | [`MAX_FIELDS`](crate::semantics::cache::vary::MAX_FIELDS), 16 |
//! | groups of a response | [`MAX_GROUPS`](crate::semantics::cache::groups::MAX_GROUPS), 128 |
//! | length of a key | [`MAX_KEY`], 4 KiB |
//! | fetches in progress | [`MAX_FETCHES`], 1,024 |
//! | fetches of variants of one key in progress that others may join before the head | 64 |
//! | time of a fetch after the head of its response | [`MAX_FILL_TIME`], 10 minutes |
//! | requests that wait for a fetch of another request | [`MAX_FOLLOWERS`], 65,536 |
//! | concurrent refreshes in the background | [`MAX_REFRESHES`], 64 |
//! | time until the head of the response to a refresh | [`REFRESH_TIMEOUT`], 1 minute |
//! | queries and paths that are remembered for `No-Vary-Search` | 16,384 of each |
//! | groups that are invalidated during one sweep | [`MAX_MARKED_GROUPS`], 16,384 |
//! | prefixes that are invalidated during one sweep | [`MAX_MARKED_PREFIXES`], 256 |
//! | record of invalidations on disk | 1 MiB; with more, everything is invalid after a crash |
//! | bytes on disk | [`DISK_CAPACITY`], 1 GiB |
//! | responses on disk | [`MAX_DISK_OBJECTS`], 1,000,000 |
//! | content of a response on disk | [`MAX_DISK_OBJECT`], 64 MiB |
//! | open files of contents above [`max_object`](CacheBuilder::max_object) | 256 KiB of the capacity in memory for each |
//! | bytes that wait to be written to disk | [`MAX_WRITING`], 64 MiB |
//! | bytes that are written to disk while they are received | a quarter of the capacity on disk |
//! | updates of stored fields that wait to be written to disk | 1,024; beyond it, the response is removed from disk |
//! | invalidated keys whose files wait for their removal | 4,096; beyond it, the call removes the files itself |
//! | removed responses that a crash could bring back, known by key | 262,144; beyond it, each key may be one of them |
//! | duration of the scan of the directory after a start | [`SCAN_TIMEOUT`], 10 minutes |
//!
//! If a content of unannounced length exceeds its bound, it is not stored. Its present clients still get all of it; the origin
//! is then read at the pace of the slowest one.
//!
//! # Position among other layers
//!
//! Inside [`RescueLayer`](crate::layer::RescueLayer), so that a stale response is used instead of an error. Outside the
//! buffers, limits and deadlines of the application, since hits need none of them. The key contains the target that the client
//! sent, even inside a [`Router`](crate::Router). A layer that rewrites the target by other facts, such as a cookie, belongs
//! inside the cache, and its responses need `Vary`.

mod aliases;
mod builder;
mod bypass;
mod clock;
mod deletions;
mod disk;
mod fetch;
mod fill;
mod flight;
mod forward;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod head_fetch;
mod hints;
mod hit_fields;
mod invalidations;
mod key;
mod layer;
mod leader;
mod marks;
mod memory;
mod object;
mod pool;
mod pump;
mod purge;
mod request_fields;
mod respond;
mod sent_forms;
mod service;
mod shared;
mod spelling;
mod stats;
mod status_values;
mod store;
mod sweep;
mod variant;

pub use builder::CacheBuilder;
pub use disk::{
    DISK_CAPACITY, Durability, MAX_DISK_OBJECT, MAX_DISK_OBJECTS, MAX_WRITING, SCAN_TIMEOUT,
};
pub use handle::CacheHandle;
pub use key::{Key, MAX_KEY, QueryKey};
pub use layer::{
    CacheLayer, FILL_TIMEOUT, HIT_FOR_MISS, MAX_FETCHES, MAX_FILL_TIME, MAX_FOLLOWERS,
    MAX_REFRESHES, REFRESH_TIMEOUT, STALE_IF_UNREACHABLE,
};
pub use marks::{MAX_MARKED_GROUPS, MAX_MARKED_PREFIXES};
pub use memory::{CAPACITY, MAX_OBJECT, MAX_VARIANTS};
pub use purge::{MIN_TOKEN, PurgeService};
#[cfg(feature = "redis")]
pub use purge::{
    PURGE_CHANNEL, PURGE_PAUSE, PURGE_PING, PurgeChannel, PurgeChannelBuilder, PurgeChannelError,
    PurgeChannelStats,
};
pub use service::{Cache, ResponseFuture};
pub use stats::CacheStats;
pub use store::Purge;

pub use crate::semantics::cache::{Heuristic, storable::SetCookie};

#[cfg(test)]
mod tests;
