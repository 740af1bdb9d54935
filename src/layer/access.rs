//! `Access`: allows and denies clients by their network.

use std::sync::Arc;

use http::{Response, StatusCode, request};
use tower_layer::Layer;

use super::filter::{Filtered, HeadFilter};
use crate::{
    body::Body,
    peer::{Network, Peer},
    semantics::problem::{self, Format},
};

/// Allows and denies clients by their address, as nginx's `allow` and `deny`. Answers 403 to denied clients.
///
/// The network with the longest prefix that contains the address decides, so the order of the calls is insignificant. A
/// second rule for the same network replaces the first one. An address in no network is denied, unless
/// [`allow_others`](Self::allow_others) is set. The address is that of the request's [`Peer`]; behind a proxy, the layer
/// belongs inside [`TrustedProxyLayer`](super::TrustedProxyLayer). A peer without an address, as on a Unix socket, is in no
/// network.
///
/// ```
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::AccessLayer, peer::Peer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let office = AccessLayer::new().allow("10.0.0.0/8".parse()?).deny("10.9.0.0/16".parse()?);
/// let site = office.layer(service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::empty()))));
/// for (client, status) in [("10.1.2.3:5", 200), ("10.9.2.3:5", 403), ("192.0.2.1:5", 403)] {
///     let peer = Peer::tcp(client.parse()?, "10.0.0.1:80".parse()?);
///     let request = http::Request::get("/").extension(peer).body(Body::empty())?;
///     assert_eq!(site.clone().oneshot(request).await?.status(), status);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct AccessLayer {
    /// Each network with whether it is allowed, the longest prefix first.
    networks: Arc<Vec<(Network, bool)>>,
    allows_others: bool,
}

/// The service of [`AccessLayer`].
pub type Access<S> = Filtered<S, AccessLayer>;

impl AccessLayer {
    /// Creates a layer that allows no client.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows clients of a network.
    #[must_use]
    pub fn allow(self, network: Network) -> Self {
        self.with(network, true)
    }

    /// Denies clients of a network.
    #[must_use]
    pub fn deny(self, network: Network) -> Self {
        self.with(network, false)
    }

    /// Sets whether clients in none of the networks are allowed. Defaults to `false`.
    #[must_use]
    pub fn allow_others(mut self, on: bool) -> Self {
        self.allows_others = on;
        self
    }

    fn with(mut self, network: Network, is_allowed: bool) -> Self {
        let networks = Arc::make_mut(&mut self.networks);
        networks.retain(|(known, _)| *known != network);
        networks.push((network, is_allowed));
        networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        self
    }

    fn allows(&self, peer: Option<&Peer>) -> bool {
        let ip = peer.and_then(Peer::ip);
        let rule = ip.and_then(|ip| self.networks.iter().find(|(n, _)| n.contains(ip)));
        rule.map_or(self.allows_others, |(_, is_allowed)| *is_allowed)
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Filtered::new(inner, self.clone())
    }
}

impl HeadFilter for AccessLayer {
    type Memo = ();

    fn on_request(&self, head: &mut request::Parts) -> Result<(), Box<Response<Body>>> {
        if self.allows(head.extensions.get::<Peer>()) {
            return Ok(());
        }
        Err(Box::new(problem::response(
            StatusCode::FORBIDDEN,
            None,
            Format::of(&head.method, &head.headers),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(layer: &AccessLayer, ip: &str) -> bool {
        let ip = std::net::SocketAddr::new(ip.parse().unwrap(), 1);
        layer.allows(Some(&Peer::tcp(ip, ip)))
    }

    #[test]
    fn longest_prefix_decides_in_any_order() {
        let rules = [("10.0.0.0/8", true), ("10.1.0.0/16", false), ("10.1.2.3/32", true)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let layer = order.iter().fold(AccessLayer::new(), |layer, &i| {
                layer.with(rules[i].0.parse().unwrap(), rules[i].1)
            });
            for (ip, allowed) in [
                ("10.0.0.1", true),
                ("10.1.0.1", false),
                ("10.1.2.3", true),
                ("11.0.0.1", false),
                ("::1", false),
            ] {
                assert_eq!(allows(&layer, ip), allowed, "{ip} {order:?}");
            }
        }
    }

    #[test]
    fn allow_others_allows_other_peers_and_the_last_rule_of_a_network_applies() {
        let layer = AccessLayer::new().deny("10.0.0.0/8".parse().unwrap()).allow_others(true);
        assert!(
            allows(&layer, "11.0.0.1") && layer.allows(None) && layer.allows(Some(&Peer::memory()))
        );
        assert!(!allows(&layer, "10.0.0.1"));
        assert!(!AccessLayer::new().allows(None));
        let layer = layer.allow("10.0.0.0/8".parse().unwrap());
        assert!(allows(&layer, "10.0.0.1"));
    }
}
