//! Tests of errors at start, which name their cause.

use tokio::net::TcpListener;
use tower::service_fn;

use super::support::refusing;
use crate::{
    Body, BoxError, Request, Response, files::DirBuilder, serve, upstream::Upstream, worker,
};

#[tokio::test]
async fn upstream_check_names_servers_that_cannot_be_reached() {
    let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let live = live.local_addr().unwrap().to_string();
    let dead = refusing().to_string();
    let directory = tempfile::tempdir().unwrap();
    let gone = format!("unix:{}", directory.path().join("gone").display());
    let api = Upstream::new([&live, &gone, &dead]).unwrap();
    let error = api.check().await.unwrap_err().to_string();
    let refused = format!("cannot connect to {dead}: Connection refused (os error 111)");
    let missing = format!("cannot connect to {gone}: No such file or directory (os error 2)");
    assert_eq!(error, format!("{refused}; {missing}"));
    assert_eq!(api.endpoints()[0].service().idle_connections(), 0);
}

#[tokio::test]
async fn upstream_check_succeeds_if_all_servers_can_be_reached() {
    let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = Upstream::new([live.local_addr().unwrap().to_string()]).unwrap();
    api.check().await.unwrap();
}

#[test]
fn try_build_error_names_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (missing, file) = (directory.path().join("nope"), directory.path().join("file"));
    std::fs::write(&file, "").unwrap();
    for (path, why) in [(&missing, "No such file"), (&file, "Not a directory")] {
        let error = DirBuilder::dir(path).try_build().unwrap_err().to_string();
        let text = format!("cannot open the directory {}: {why}", path.display());
        assert!(error.starts_with(&text), "{error}");
    }
    drop(DirBuilder::dir(directory.path()).try_build().unwrap());
    // The file does not exist, and its directory does.
    drop(DirBuilder::file(missing).try_build().unwrap());
}

#[test]
fn pools_without_members_are_errors() {
    let error = Upstream::new::<&str>([]).unwrap_err();
    assert_eq!(error.to_string(), "the proxy has no server: add one, or call `empty`");
    let error = worker::threads(0, || worker::blocking(|_| Response::new(""))).start();
    assert!(error.unwrap_err().to_string().contains("at least 1"));
}

#[test]
fn invalid_address_is_error_that_names_it() {
    let hello = || service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::empty())));
    for address in ["8080", "localhost", "http://a/b:80"] {
        let error = serve(address, hello()).bind().unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen: '{address}' is neither")), "{error}");
    }
}
