//! A shared cache of responses (RFC 9111) as a layer.
//!
//! [`CacheLayer`] stands in front of any service: an upstream set, an application's workers, a folder, an
//! `axum::Router`. It stores what the origin permits to store, and answers from that.
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
//! - **Decisions** are those of [`semantics::cache`](crate::semantics::cache), with the configured
//!   [times](CacheBuilder) for responses that have none of their own.
//! - **Single flight**: requests for the same response share one fetch. They read its content as it arrives, at their own
//!   pace; a task of its own reads the origin. If the response turns out not to be for others, each request is forwarded
//!   by itself, and for [a while](HIT_FOR_MISS) later ones do not wait. A request waits at most
//!   [`fill_timeout`](CacheBuilder::fill_timeout) for the head.
//! - **Stale responses** are used while they are revalidated in the background, while the origin fails, and
//!   [while it is overloaded](CacheBuilder::stale_while), as far as the response permits that.
//! - **Early refresh**: one of many requests refreshes a response shortly before it expires, so that a hot one never does.
//! - **Early hints**: browsers get the `Link` fields of a stale response while it is fetched again,
//!   [by choice](CacheBuilder::early_hints).
//! - **Variants** by `Vary`, with `Accept-Encoding` and `Accept-Language` in a normal form. The origin is sent the normal
//!   form of `Accept-Encoding`.
//! - **Queries** that a response's `No-Vary-Search` calls the same share it, [by choice](CacheBuilder::no_vary_search).
//! - **Ranges and conditions** of requests are answered from whole responses. Partial responses are not stored.
//! - **Invalidation** by unsafe requests, and by [`CacheHandle`] with a key, a prefix or a group, or over
//!   HTTP by a [`PurgeService`].
//!
//! # What is not stored
//!
//! Responses to other methods than GET; partial ones; those with `no-store` or `private`; to requests with
//! `Authorization`, unless they say `public`, `s-maxage` or `must-revalidate`; with `Set-Cookie`, unless they say `public`
//! or `s-maxage` (the cookie is never stored, unless [`set_cookie`](CacheBuilder::set_cookie) says so); larger than
//! [`max_object`](CacheBuilder::max_object); and all while the [budget](CacheBuilder::budget) is above its soft limit.
//! Requests with content, `Upgrade`, `If-Match` or `If-Unmodified-Since`, without a host or with several, and with a path
//! that has no [normal form](crate::semantics::target::normalize) are forwarded as they are. Trailers are dropped.
//!
//! # Bounds
//!
//! | what | default |
//! |---|---|
//! | bytes that are stored | [`CAPACITY`], 64 MiB, and the budget |
//! | content of a response | [`MAX_OBJECT`], 1 MiB |
//! | variants of a key | [`MAX_VARIANTS`], 16 |
//! | fields in `Vary` | [`MAX_FIELDS`](crate::semantics::cache::vary::MAX_FIELDS), 16 |
//! | groups of a response | [`MAX_GROUPS`](crate::semantics::cache::groups::MAX_GROUPS), 128 |
//! | bytes of a key | [`MAX_KEY`], 4 KiB |
//! | fetches in progress | [`MAX_FETCHES`], 1,024 |
//! | requests that wait for them | [`MAX_FOLLOWERS`], 65,536 |
//! | refreshes in the background | [`MAX_REFRESHES`], 64 |
//! | queries and paths that are remembered for `No-Vary-Search` | 16,384 of each |
//! | groups that are invalidated at a time | [`MAX_MARKED_GROUPS`], 16,384 |
//! | prefixes, likewise | [`MAX_MARKED_PREFIXES`], 256 |
//! | bytes on disk, for a store in a folder | [`DISK_CAPACITY`], 1 GiB |
//! | responses on disk | [`MAX_DISK_OBJECTS`], 1,000,000 |
//! | content of a response on disk | [`MAX_DISK_OBJECT`], 64 MiB |
//! | bytes that wait to be written | [`MAX_WRITING`], 64 MiB |
//! | bytes that are written to disk as they arrive | a quarter of the capacity |
//! | scan of the folder at the start, in the background | [`SCAN_TIMEOUT`], 10 minutes |
//!
//! A content whose length is not announced and that turns out too large is read on for its clients, at the pace of the
//! slowest of them.
//!
//! # Where it stands
//!
//! Inside of [`RescueLayer`](crate::layer::RescueLayer), so that a stale response can conceal an error; outside of buffers,
//! limits and deadlines of the application, so that hits need none of them. The key has the target as the client sent it,
//! also inside of a [`Router`](crate::Router): a layer that rewrites the target by anything else than the target, such as
//! a cookie, belongs inside of the cache, and its responses need `Vary`.

mod aliases;
mod bypass;
mod clock;
mod disk;
mod fetch;
mod fill;
mod flight;
mod handle;
mod hints;
mod key;
mod layer;
mod leader;
mod marks;
mod memory;
mod object;
mod pool;
mod pump;
mod purge;
mod respond;
mod service;
mod shared;
mod stats;
mod store;
mod sweep;

use std::future::poll_fn;

pub use disk::{
    DISK_CAPACITY, Durability, MAX_DISK_OBJECT, MAX_DISK_OBJECTS, MAX_WRITING, SCAN_TIMEOUT,
};
pub use handle::CacheHandle;
pub use key::{Key, MAX_KEY, QueryKey};
pub use layer::{
    CacheBuilder, CacheLayer, FILL_TIMEOUT, HIT_FOR_MISS, MAX_FETCHES, MAX_FOLLOWERS,
    MAX_REFRESHES, STALE_IF_UNREACHABLE,
};
pub use marks::{MAX_MARKED_GROUPS, MAX_MARKED_PREFIXES};
pub use memory::{CAPACITY, MAX_OBJECT, MAX_VARIANTS};
pub use purge::{MIN_TOKEN, PurgeService};
pub use service::{Cache, ResponseFuture};
pub use stats::CacheStats;
pub use store::Purge;

pub use crate::semantics::cache::{Heuristic, storable::SetCookie};
use crate::{Body, HttpService, Request, Response, error::BoxError};

/// Calls a service once it is ready.
async fn call<S: HttpService>(mut service: S, request: Request) -> Result<Response, BoxError> {
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    let response = service.call(request).await.map_err(Into::into)?;
    Ok(response.map(Body::new))
}

#[cfg(test)]
mod tests;
