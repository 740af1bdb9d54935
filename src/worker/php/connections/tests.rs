//! Connections to a scripted application, which answers each request at once.

use std::sync::Arc;

use http::Request;
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    runtime::{Builder, Runtime},
    sync::Semaphore,
};

use super::*;
use crate::{
    Body,
    proto::fcgi::{
        Params,
        tests::app::{end, read_request, stdout},
    },
};

/// Requests, their processes, and the other ends of their connections.
struct Site {
    connections: Arc<Connections>,
    children: Arc<Semaphore>,
}

/// The application's end of a connection.
type App = UnixStream;

impl Site {
    fn new(processes: usize) -> Self {
        let connections = Connections::new(processes, true);
        Self { connections, children: Arc::new(Semaphore::new(processes)) }
    }

    fn checkout(&self) -> (Lease, Option<Connection>) {
        let child = self.children.clone().try_acquire_owned().expect("a process is free");
        self.connections.checkout(Arc::new(child), InUse::for_test())
    }

    /// Begins a request on a new connection.
    fn connect(&self) -> (Lease, Connection, App) {
        let (lease, idle) = self.checkout();
        assert!(idle.is_none());
        let (app, io) = UnixStream::pair().unwrap();
        (lease, fcgi::Connection::new(Stream::from(io), Arc::default()), app)
    }

    fn idle(&self) -> usize {
        self.connections.state().idle.len()
    }
}

/// Completes a request.
async fn serve(lease: Lease, connection: Connection, app: &mut App) {
    app.write_all(&[stdout("Status: 200\n\n"), end(0)].concat()).await.unwrap();
    let request = Request::get("/a.php").body(Body::empty()).unwrap();
    connection.exchange(request, Params::new(), lease).await.unwrap();
    read_request(app).await;
}

async fn is_closed(mut app: App) -> bool {
    tokio::io::AsyncReadExt::read(&mut app, &mut [0]).await.unwrap() == 0
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn newest_idle_connection_serves_next_request() {
    let site = Site::new(2);
    let (first, second) = (site.connect(), site.connect());
    let (mut old, mut new) = (first.2, second.2);
    serve(first.0, first.1, &mut old).await;
    serve(second.0, second.1, &mut new).await;
    assert_eq!((site.idle(), site.children.available_permits()), (2, 2));
    let (lease, connection) = site.checkout();
    assert_eq!((site.idle(), site.children.available_permits()), (1, 1));
    serve(lease, connection.unwrap(), &mut new).await;
    assert_eq!(site.idle(), 2);
}

/// No await of these tests lets the runtime notice what the application writes.
#[tokio::test]
async fn connection_with_output_after_the_response_is_closed() {
    let site = Site::new(2);
    for late in [stdout("Status: 200\n\nof another request"), Vec::new()] {
        let (lease, connection, mut app) = site.connect();
        serve(lease, connection, &mut app).await;
        assert_eq!(site.idle(), 1);
        match &late[..] {
            [] => drop(app), // the process has ended
            late => assert_eq!(app.try_write(late).unwrap(), late.len()),
        }
        assert!(site.checkout().1.is_none());
        assert_eq!(site.idle(), 0);
    }
}

#[tokio::test]
async fn connection_whose_script_goes_on_is_not_used() {
    let site = Site::new(3);
    let (lease, connection, mut app) = site.connect();
    app.write_all(&[stdout("Status: 200\n\n"), end(0)].concat()).await.unwrap();
    let request = Request::get("/a.php").body(Body::empty()).unwrap();
    connection.exchange(request, Params::new(), lease).await.unwrap();
    assert_eq!(site.idle(), 1);
    let (lease, idle) = site.checkout();
    assert!(idle.is_none());
    read_request(&mut app).await;
    assert!(site.checkout().1.is_some(), "it waits for the next request");
    drop(lease);
}

#[tokio::test]
async fn request_that_is_given_up_closes_its_connection_and_frees_its_process() {
    let site = Site::new(1);
    let (lease, connection, app) = site.connect();
    let request = Request::get("/a.php").body(Body::empty()).unwrap();
    drop(connection.exchange(request, Params::new(), lease));
    assert!(is_closed(app).await);
    assert_eq!((site.idle(), site.children.available_permits()), (0, 1));
    let (lease, idle) = site.checkout();
    assert!(idle.is_none());
    drop(lease);
    assert_eq!(site.connections.state().busy, 0);
}

#[tokio::test]
async fn no_connection_is_kept_while_a_request_starves() {
    let site = Site::new(3);
    let (lease, connection, mut idle) = site.connect();
    let (busy_lease, busy, mut busy_app) = site.connect();
    serve(lease, connection, &mut idle).await;
    let starving = site.connections.starve();
    assert!(is_closed(idle).await, "its process accepts the connection that waits");
    serve(busy_lease, busy, &mut busy_app).await;
    assert!(is_closed(busy_app).await);
    drop(starving);
    let (lease, connection, mut app) = site.connect();
    serve(lease, connection, &mut app).await;
    assert_eq!(site.idle(), 1);
}

#[tokio::test]
async fn retired_instance_keeps_no_connection() {
    let site = Site::new(2);
    let (first, second) = (site.connect(), site.connect());
    let (mut idle, mut busy) = (first.2, second.2);
    serve(first.0, first.1, &mut idle).await;
    site.connections.retire();
    assert!(is_closed(idle).await);
    serve(second.0, second.1, &mut busy).await;
    assert!(is_closed(busy).await);
    assert_eq!(site.idle(), 0);
}

#[test]
fn idle_connection_of_another_runtime_gives_up_its_process() {
    let site = Site::new(1);
    let (one, other) = (runtime(), runtime());
    let mut app = one.block_on(async {
        let (lease, connection, mut app) = site.connect();
        serve(lease, connection, &mut app).await;
        app
    });
    assert_eq!(site.idle(), 1);
    let lease = other.block_on(async { site.connect().0 });
    assert!(one.block_on(is_closed(app)));
    assert_eq!((site.idle(), site.children.available_permits()), (0, 0));
    drop(lease);
    // With a process to spare it stays open, until its runtime ends.
    let site = Site::new(2);
    app = one.block_on(async {
        let (lease, connection, mut app) = site.connect();
        serve(lease, connection, &mut app).await;
        app
    });
    drop(other.block_on(async { site.connect().0 }));
    assert_eq!(site.idle(), 1);
    drop(one);
    assert_eq!(site.idle(), 0);
    drop(app);
}

#[tokio::test(start_paused = true)]
async fn idle_connection_is_closed_at_its_timeout() {
    let site = Site::new(2);
    let (first, second) = (site.connect(), site.connect());
    let (mut old, mut new) = (first.2, second.2);
    serve(first.0, first.1, &mut old).await;
    tokio::time::advance(IDLE_TIMEOUT / 2).await;
    serve(second.0, second.1, &mut new).await;
    assert!(is_closed(old).await, "the paused clock advances to its timeout");
    assert_eq!(site.idle(), 1);
    assert!(is_closed(new).await);
    assert_eq!(site.connections.state().reaped, []);
}
