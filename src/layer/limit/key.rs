//! Whose request is it? The key that a limit for each client counts by.

use std::{net::IpAddr, sync::Arc};

use crate::{Request, peer::Peer};

/// Tells a request's key; `None` where the limit does not apply.
pub(super) type KeyFn<K> = Arc<dyn Fn(&Request) -> Option<K> + Send + Sync>;

/// By the network of the request's client, if it has one.
pub(super) fn by_net(ipv6_prefix: u8) -> KeyFn<IpAddr> {
    Arc::new(move |request| request.extensions().get::<Peer>()?.network(ipv6_prefix))
}
