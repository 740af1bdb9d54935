//! `CacheLayer`, and the options that its services read.

use std::{sync::Arc, time::Duration};

use http::{Request, request};
use tower_layer::Layer;

use super::{
    builder::CacheBuilder, handle::CacheHandle, key::QueryKey, service::Cache, shared::Shared,
    status_values::StatusValues,
};
use crate::{
    Body,
    semantics::cache::{Lifetimes, storable::SetCookie},
};

/// The default maximum number of fetches in progress whose responses may be stored, 1,024.
pub const MAX_FETCHES: usize = 1024;

/// The default maximum number of requests that wait for the fetch of another request, 65,536.
pub const MAX_FOLLOWERS: usize = 65_536;

/// The default maximum number of concurrent refreshes in the background, 64.
pub const MAX_REFRESHES: usize = 64;

/// The default time that a request waits for the head of the response to another request, 5 seconds. Then it is forwarded
/// by itself, as is one that comes when no content has been received for this time.
pub const FILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The default time within which the origin must answer a refresh in the background, 1 minute.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(60);

/// The default time within which a content must be complete in order to be stored, 10 minutes.
pub const MAX_FILL_TIME: Duration = Duration::from_secs(600);

/// The default time for which requests for a key do not wait for each other after a response that could not be shared, 10
/// seconds.
pub const HIT_FOR_MISS: Duration = Duration::from_secs(10);

/// The default time for which a stale response is used while the origin is unreachable, 5 minutes. It does not apply to
/// responses with `must-revalidate`, `proxy-revalidate`, `s-maxage` or `no-cache`.
pub const STALE_IF_UNREACHABLE: Duration = Duration::from_secs(300);

/// A condition on requests.
pub(super) type Predicate = dyn Fn(&Request<Body>) -> bool + Send + Sync;

/// A condition on the heads of requests.
pub(super) type PartsPredicate = dyn Fn(&request::Parts) -> bool + Send + Sync;

/// Wraps a service in [`Cache`]. All services that a layer and its clones wrap share one store.
#[derive(Clone, Debug)]
pub struct CacheLayer {
    pub(super) shared: Arc<Shared>,
}

/// The options that the service reads.
pub(super) struct Options {
    pub(super) lifetimes: Lifetimes,
    pub(super) set_cookie: SetCookie,
    pub(super) query: QueryKey,
    /// The values of `Cache-Status`, if the cache has a name.
    pub(super) status: Option<StatusValues>,
    pub(super) max_fetches: usize,
    pub(super) max_followers: usize,
    pub(super) max_refreshes: usize,
    pub(super) fill_timeout: Duration,
    pub(super) max_fill_time: Duration,
    pub(super) refresh_timeout: Duration,
    pub(super) hit_for_miss: Duration,
    pub(super) stale_if_unreachable: Duration,
    pub(super) early_refresh: f64,
    pub(super) obeys_requests: bool,
    pub(super) fills_ranges: bool,
    pub(super) no_vary_search: bool,
    pub(super) early_hints: bool,
    pub(super) collapses: bool,
    pub(super) collapse_if: Option<Arc<PartsPredicate>>,
    pub(super) bypass_if: Option<Arc<Predicate>>,
    pub(super) stale_while: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl CacheLayer {
    /// Creates a layer with a store in memory and the default options.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder with the default options.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::new()
    }

    /// Returns a handle that invalidates stored responses and returns counters.
    pub fn handle(&self) -> CacheHandle {
        CacheHandle::new(self.shared.clone())
    }
}

impl Default for CacheLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cache<S>;

    fn layer(&self, inner: S) -> Cache<S> {
        Cache::new(inner, self.shared.clone())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lifetimes: Lifetimes::default(),
            set_cookie: SetCookie::default(),
            query: QueryKey::default(),
            status: None,
            max_fetches: MAX_FETCHES,
            max_followers: MAX_FOLLOWERS,
            max_refreshes: MAX_REFRESHES,
            fill_timeout: FILL_TIMEOUT,
            max_fill_time: MAX_FILL_TIME,
            refresh_timeout: REFRESH_TIMEOUT,
            hit_for_miss: HIT_FOR_MISS,
            stale_if_unreachable: STALE_IF_UNREACHABLE,
            early_refresh: 1.0,
            obeys_requests: false,
            fills_ranges: false,
            no_vary_search: false,
            early_hints: false,
            collapses: true,
            collapse_if: None,
            bypass_if: None,
            stale_while: None,
        }
    }
}
