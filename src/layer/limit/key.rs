//! The keys by which limits count clients.

use std::{net::IpAddr, sync::Arc};

use http::request::Parts;

use crate::peer::Peer;

/// Returns a request's key; `None` if the limit does not apply to it.
pub(super) type KeyFn<K> = Arc<dyn Fn(&Parts) -> Option<K> + Send + Sync>;

/// Returns a function that keys a request by its client's network, if it has one.
pub(super) fn by_network(ipv6_prefix: u8) -> KeyFn<IpAddr> {
    Arc::new(move |head| head.extensions.get::<Peer>()?.network(ipv6_prefix))
}
