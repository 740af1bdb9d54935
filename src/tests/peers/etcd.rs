//! etcd as a source of endpoints.

use std::{
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    pin::Pin,
    process::Stdio,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_core::Stream;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    process::Child,
};
use tower::ServiceExt;

use super::{listening, program};
use crate::{
    Body, Request,
    tests::support::within,
    upstream::{
        Remote,
        discover::{EtcdSource, Target, Update},
    },
};

/// etcd with one member, in a directory of its own.
pub(super) struct Etcd {
    child: Child,
    client: SocketAddr,
    peer: SocketAddr,
}

impl Etcd {
    pub(super) async fn free_address() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 79, 0, 1), 0)).await.unwrap();
        listener.local_addr().unwrap()
    }

    pub(super) async fn start(dir: &Path, client: SocketAddr, peer: SocketAddr) -> Self {
        let mut command = program("etcd");
        command.arg("--data-dir").arg(dir.join("data")).args(["--log-level", "error"]);
        for (option, addr) in [
            ("--listen-client-urls", client),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer),
            ("--initial-advertise-peer-urls", peer),
        ] {
            command.arg(option).arg(format!("http://{addr}"));
        }
        command.arg("--initial-cluster").arg(format!("default=http://{peer}"));
        command.stderr(Stdio::null()); // its log
        let mut child = command.spawn().expect("etcd is installed");
        listening(&mut child, async || TcpStream::connect(client).await.is_ok()).await;
        let etcd = Self { child, client, peer };
        // It listens before it has a leader.
        within(async {
            while etcd.call("/v3/kv/range", json!({ "key": STANDARD.encode("x") })).await.is_none()
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
        etcd
    }

    async fn call(&self, path: &str, body: Value) -> Option<Value> {
        let remote = Remote::new(self.client.to_string()).unwrap();
        let request = Request::post(path).body(Body::from(body.to_string())).unwrap();
        let response = remote.oneshot(request).await.ok()?;
        if response.status() != 200 {
            return None;
        }
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        serde_json::from_slice(&bytes).ok()
    }

    /// Returns the revision.
    pub(super) async fn put(&self, key: &str, value: &str) -> String {
        let pair = json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) });
        let answer = within(self.call("/v3/kv/put", pair)).await.unwrap();
        answer["header"]["revision"].as_str().unwrap().to_owned()
    }

    pub(super) async fn delete(&self, key: &str) {
        let key = json!({ "key": STANDARD.encode(key) });
        within(self.call("/v3/kv/deleterange", key)).await.unwrap();
    }

    pub(super) async fn stop(mut self) -> (SocketAddr, SocketAddr) {
        self.child.start_kill().unwrap();
        within(self.child.wait()).await.unwrap();
        (self.client, self.peer)
    }
}

async fn next(source: &mut EtcdSource) -> Result<Update, String> {
    let next = within(poll_fn(|cx| Pin::new(&mut *source).poll_next(cx))).await;
    next.expect("it never ends").map_err(|e| e.to_string())
}

async fn next_set(source: &mut EtcdSource) -> Vec<Target> {
    match next(source).await {
        Ok(Update::Set(targets)) => targets,
        other => panic!("{other:?}"),
    }
}

fn targets(texts: &[&str]) -> Vec<Target> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
#[cfg_attr(not(peer_etcd), ignore = "apt-get install etcd-server")]
async fn etcd_source_follows_keys_with_its_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let (client, peer) = (Etcd::free_address().await, Etcd::free_address().await);
    let etcd = Etcd::start(dir.path(), client, peer).await;
    etcd.put("/app/b", "10.0.0.2:80 weight=2").await;
    etcd.put("/app/10.0.0.1:80", "").await;
    etcd.put("/apple", "10.0.0.9:80").await;
    // One of its servers is down.
    let dead = Etcd::free_address().await.to_string();
    let mut source = EtcdSource::new([dead, client.to_string()], "/app/").unwrap();
    assert_eq!(next_set(&mut source).await, targets(&["10.0.0.1:80", "10.0.0.2:80 weight=2"]));
    etcd.put("/app/c", "10.0.0.3:80").await;
    let three = ["10.0.0.1:80", "10.0.0.2:80 weight=2", "10.0.0.3:80"];
    assert_eq!(next_set(&mut source).await, targets(&three));
    etcd.put("/app/c", "no target").await;
    assert_eq!(next_set(&mut source).await, targets(&three[..2]));
    etcd.delete("/app/b").await;
    assert_eq!(next_set(&mut source).await, targets(&three[..1]));

    // Changes while the watch is broken are not missed.
    let (client, peer) = etcd.stop().await;
    let error = next(&mut source).await.unwrap_err();
    assert!(error.starts_with("etcd prefix /app/: "), "{error}");
    let etcd = Etcd::start(dir.path(), client, peer).await;
    etcd.put("/app/d", "10.0.0.4:80").await;
    let set = loop {
        if let Ok(Update::Set(targets)) = next(&mut source).await {
            break targets;
        }
    };
    assert_eq!(set, targets(&["10.0.0.1:80", "10.0.0.4:80"]));
    etcd.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_etcd), ignore = "apt-get install etcd-server")]
async fn etcd_source_reads_all_keys_again_after_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let (client, peer) = (Etcd::free_address().await, Etcd::free_address().await);
    let etcd = Etcd::start(dir.path(), client, peer).await;
    etcd.put("/app/a", "10.0.0.1:80").await;
    let mut source = EtcdSource::new([client.to_string()], "/app/").unwrap();
    assert_eq!(next_set(&mut source).await, targets(&["10.0.0.1:80"]));
    // The source is not polled, so it does not watch yet.
    etcd.put("/app/b", "10.0.0.2:80").await;
    etcd.delete("/app/a").await;
    let last = etcd.put("/app/c", "10.0.0.3:80").await;
    let compaction = json!({ "revision": last, "physical": true });
    within(etcd.call("/v3/kv/compaction", compaction)).await.unwrap();
    assert_eq!(next_set(&mut source).await, targets(&["10.0.0.2:80", "10.0.0.3:80"]));
    etcd.put("/app/b", "10.0.0.7:80").await;
    assert_eq!(next_set(&mut source).await, targets(&["10.0.0.7:80", "10.0.0.3:80"]));
    etcd.stop().await;
}
