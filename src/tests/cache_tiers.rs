//! Fronts whose caches share a second tier: each key belongs to the inner cache of one of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tower::{Layer, ServiceBuilder, service_fn};

use super::support::{Running, exchange, start, statuses};
use crate::{
    Body, BoxError, Request, Response, Router,
    cache::CacheLayer,
    layer::{ClientField, RescueLayer, TrustedProxyLayer},
    peer::{Peer, Tls},
    policy::pick::{ConsistentHash, RequestKey},
    upstream::Upstream,
};

const TOKEN: &str = "a token of the site";
const FRONTS: usize = 3;
const PATHS: usize = 24;

/// A front: a cache for clients, in front of the caches that own keys, of which one is its own.
struct Front {
    inner: Option<Running>,
    outer: Running,
    purges: Running,
}

struct Site {
    fronts: Vec<Front>,
    /// The paths that the application was asked for.
    asked: Arc<Mutex<Vec<String>>>,
    version: Arc<AtomicUsize>,
}

impl Site {
    async fn start() -> Self {
        let (asked, version) =
            (Arc::<Mutex<Vec<String>>>::default(), Arc::new(AtomicUsize::new(1)));
        let (log, current) = (asked.clone(), version.clone());
        let application = service_fn(move |request: Request| {
            log.lock().unwrap().push(request.uri().path().to_owned());
            let text = format!("version {}", current.load(Relaxed));
            let response = Response::builder().header("cache-control", "max-age=1000");
            std::future::ready(response.body(Body::from(text)).map_err(BoxError::from))
        });
        let mut inners = Vec::new();
        for _ in 0..FRONTS {
            let cache = CacheLayer::new();
            let proxies = TrustedProxyLayer::new(ClientField::XForwardedFor);
            let proxies = proxies.trust("127.0.0.1".parse().unwrap()).x_forwarded_proto(true);
            let stack = ServiceBuilder::new().layer(proxies).layer(RescueLayer::new());
            let stack = stack.layer(cache.clone());
            inners.push((cache, start(stack.service(application.clone())).await));
        }
        let addresses: Vec<_> =
            inners.iter().map(|(_, running)| running.addr.to_string()).collect();
        let mut fronts = Vec::new();
        for (inner, running) in inners {
            let owners = Upstream::builder(&addresses);
            let owners = owners.policy(ConsistentHash::ring(RequestKey::path())).build().unwrap();
            let cache = CacheLayer::new();
            let purges = Router::new()
                .route("/inner", inner.handle().purge_service(TOKEN))
                .route("/outer", cache.handle().purge_service(TOKEN));
            let stack =
                ServiceBuilder::new().map_request(over_tls).layer(RescueLayer::new()).layer(cache);
            fronts.push(Front {
                inner: Some(running),
                outer: start(stack.service(owners)).await,
                purges: start(RescueLayer::new().layer(purges)).await,
            });
        }
        Self { fronts, asked, version }
    }

    /// Requests all paths of all fronts, and returns how often each was fetched from the application.
    async fn fetch_all(&self, version: usize) -> Vec<usize> {
        self.asked.lock().unwrap().clear();
        for front in &self.fronts {
            for i in 0..PATHS {
                let answer = get(front.outer.addr, &format!("/page/{i}")).await;
                assert!(answer.ends_with(&format!("version {version}")), "{answer}");
            }
        }
        let asked = self.asked.lock().unwrap();
        let count = |i| asked.iter().filter(|path| **path == format!("/page/{i}")).count();
        (0..PATHS).map(count).collect()
    }

    /// Invalidates at all fronts: first the caches that own keys, from which the others fetch.
    async fn purge(&self, query: &str) {
        self.purge_tiers(&["inner", "outer"], query).await;
    }

    async fn purge_tiers(&self, tiers: &[&str], query: &str) {
        for tier in tiers {
            for front in &self.fronts {
                let request = format!(
                    "POST /{tier}?{query} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\
                     Content-Length: 0\r\nConnection: close\r\n\r\n"
                );
                assert_eq!(statuses(&exchange(front.purges.addr, request).await), [204]);
            }
        }
    }

    async fn stop(self) {
        for Front { inner, outer, purges } in self.fronts {
            for server in inner.into_iter().chain([outer, purges]) {
                server.stop().await;
            }
        }
    }
}

/// Makes a request one that the client has sent over TLS.
fn over_tls(mut request: Request) -> Request {
    let peer = request.extensions().get::<Peer>().unwrap().clone();
    request.extensions_mut().insert(peer.secured(Tls::new("TLSv1.3")));
    request
}

async fn get(addr: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n");
    exchange(addr, request).await
}

#[tokio::test]
async fn caches_of_a_site_fetch_each_key_once_and_are_all_invalidated() {
    let mut site = Site::start().await;
    assert_eq!(site.fetch_all(1).await, [1; PATHS], "the owner of a key fetches it for all");
    site.version.store(2, Relaxed);
    assert_eq!(site.fetch_all(1).await, [0; PATHS], "each front has it now");
    site.purge("prefix=https://site.example/page/").await;
    assert_eq!(site.fetch_all(2).await, [1; PATHS]);

    // A front is lost: its keys move to others, and those of others stay.
    let lost = site.fronts[0].inner.take().unwrap();
    let others = site.fronts[1].outer.addr;
    lost.stop().await;
    site.asked.lock().unwrap().clear();
    site.purge_tiers(&["outer"], "all").await;
    for i in 0..PATHS {
        let answer = get(others, &format!("/page/{i}")).await;
        assert!(answer.ends_with("version 2"), "{answer}");
    }
    assert!(
        site.asked.lock().unwrap().len() < PATHS,
        "the keys of the other owners have not moved"
    );
    site.stop().await;
}
