//! The path of a Unix socket.

use super::*;

#[tokio::test]
async fn socket_path_taken_over_by_another_server_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let at = format!("unix:{}", path.display());
    let (began, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (b, g) = (began.clone(), go_on.clone());
    let slow = service_fn(move |_: Request| {
        let (began, go_on) = (b.clone(), g.clone());
        async move {
            began.notify_one();
            go_on.notified().await;
            Ok::<_, Infallible>(Response::new(Body::from("old")))
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let old = crate::serve(at.as_str(), slow).shutdown(async {
        let _ = stopped.await;
    });
    let old = tokio::spawn(old.bind().unwrap().into_future());
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(GET).await.unwrap();
    within(began.notified()).await;
    stop.send(()).unwrap();
    // The old server drains; a new one binds the path as soon as it is free.
    within(async {
        while path.exists() {
            tokio::task::yield_now().await
        }
    })
    .await;
    let hello =
        service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("new"))) });
    let new = tokio::spawn(crate::serve(at.as_str(), hello).bind().unwrap().into_future());
    go_on.notify_one();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("old"));
    within(old).await.unwrap().unwrap();
    assert!(UnixStream::connect(&path).await.is_ok(), "the new one's path is still there");
    new.abort();
}

#[tokio::test]
async fn regular_file_is_not_taken_for_stale_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("precious.conf");
    std::fs::write(&path, "x").unwrap();
    let hello =
        service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
    let bound = crate::serve(format!("unix:{}", path.display()), hello).bind();
    assert_eq!(bound.unwrap_err().kind(), ErrorKind::AddrInUse);
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
}
