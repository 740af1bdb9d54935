//! A test of a page with its assets in a real browser.

use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use tower::service_fn;

use super::program;
use crate::{
    Body, Request, Response, Router, files,
    serve::Serve,
    tests::support::{start_with, within},
};

#[tokio::test]
#[cfg_attr(not(peer_chromium), ignore = "apt-get install chromium")]
async fn page_of_example_loads_with_its_assets_and_runs_its_script() {
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateway/site");
    let api = service_fn(|_: Request| async {
        let json = r#"{"server":"test","served":7,"client":"you"}"#;
        Ok::<_, std::convert::Infallible>(Response::new(Body::from(json)))
    });
    let entries = Arc::new(Mutex::new(Vec::new()));
    let seen = entries.clone();
    let front = Router::new().prefix("/api", api).fallback(files::dir(site));
    let log = |server: Serve<_>| {
        server.access_log(move |entry| {
            let path = entry.uri.as_ref().map_or("", |uri| uri.path());
            let status = entry.status.map_or(0, |s| s.as_u16());
            seen.lock().unwrap().push(format!("{path} {status}"));
        })
    };
    let server = start_with(front, log).await;

    let dir = tempfile::tempdir().unwrap();
    let shot = dir.path().join("page.png");
    let url = format!("http://{}/", server.addr);
    for page in [vec!["--dump-dom".to_owned()], vec![format!("--screenshot={}", shot.display())]] {
        let mut chromium = program("chromium");
        chromium
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            .args(["--window-size=1000,900", "--virtual-time-budget=5000"])
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .args(&page)
            .arg(&url)
            .stderr(Stdio::null());
        let out = tokio::time::timeout(std::time::Duration::from_secs(90), chromium.output())
            .await
            .expect("the browser ends by itself")
            .unwrap();
        if page[0] == "--dump-dom" {
            let dom = String::from_utf8_lossy(&out.stdout);
            assert!(dom.contains("The test porter answers, for the 7. time today."), "{dom}");
        }
    }
    let png = std::fs::read(shot).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 20_000, "{} bytes", png.len());
    within(server.stop()).await;

    let log = entries.lock().unwrap();
    for asset in ["/", "/style.css", "/app.js", "/house.png", "/api/hello"] {
        assert!(log.contains(&format!("{asset} 200")), "{asset}: {log:?}");
    }
    assert!(log.iter().all(|l| l.ends_with(" 200") || l.ends_with(" 304")), "{log:?}");
}
