//! Scripted PHP applications.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http_body_util::BodyExt;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{
    control::{Control, Events},
    processes::{CONTROL, InProcesses, listen},
    *,
};
use crate::Body;

/// The application, which follows the script as far as the tests for PHP need it. Each request has its own connection to the
/// test, so the number of the instance is not known.
const APPLICATION: &str = "<?php
    $path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
    $control = stream_socket_client('unix://' . getenv('CONTROL'), $code, $error, 60);
    fgets($control); // the script of a build
    fwrite($control, \"entered $path\\n\");
    function wait($control, $path) { fwrite($control, \"wait $path\\n\"); fgets($control); }
    if (str_starts_with($path, '/stream')) {
        echo 'abc'; flush(); wait($control, $path); echo 'def';
        return;
    }
    if (str_starts_with($path, '/hold')) { wait($control, $path); }
    echo $path;";

/// A PHP application whose scripts are controlled.
pub(super) struct InPhp {
    handle: Spawning,
    events: Events,
    control: Arc<Control>,
}

/// The handle, whose requests run in tasks: unlike those of other pools they run only while they are polled.
#[derive(Clone)]
pub(super) struct Spawning {
    php: Php,
    /// The directory of the scripts.
    dir: Arc<TempDir>,
}

/// A request, which is dropped with this value.
pub(super) struct Spawned(JoinHandle<Result<Response, BoxError>>);

impl Service<Request> for Spawning {
    type Response = Response;
    type Error = BoxError;
    type Future = Spawned;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::<Request>::poll_ready(&mut self.php, cx)
    }

    fn call(&mut self, request: Request) -> Spawned {
        let is_streamed = request.uri().path().starts_with("/stream");
        let (response, dir) = (self.php.call(request), self.dir.clone());
        Spawned(tokio::spawn(async move {
            let response = response.await?;
            drop(dir);
            if is_streamed {
                return Ok(response);
            }
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Response::from_parts(head, Body::from(body)))
        }))
    }
}

impl Future for Spawned {
    type Output = Result<Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Result::unwrap)
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Placement for InPhp {
    type Handle = Spawning;

    const SHORT: Duration = InProcesses::SHORT;
    const STREAM_LEFT: Option<u64> = None;
    const HAS_TRAILERS: bool = false;

    fn assert_crashed(error: &BoxError) {
        assert_eq!(kind(error), Kind::BadGateway);
    }

    fn assert_broken(error: &BoxError) {
        assert_eq!(kind(error), Kind::BadGateway);
    }

    fn start(settings: Settings) -> Result<Self, Error> {
        let (control, events, dir) = listen(settings.builds);
        // For the user of the scripts.
        let allow = |path: &std::path::Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        allow(dir.path(), 0o755);
        allow(&dir.path().join(CONTROL), 0o777);
        fs::write(dir.path().join("index.php"), APPLICATION).unwrap();
        let builder = php(dir.path()).env("CONTROL", dir.path().join(CONTROL).to_str().unwrap());
        let builder = match rustix::process::geteuid().is_root() {
            true => builder.user(65534, 65534),
            false => builder,
        };
        let php = builder
            .ini("output_buffering", "0")
            .children(settings.workers)
            .queue(settings.queue)
            .queue_timeout(settings.queue_timeout)
            .request_timeout(settings.request_timeout)
            .start()?;
        Ok(Self { handle: Spawning { php, dir: Arc::new(dir) }, events, control })
    }

    fn handle(&self) -> &Spawning {
        &self.handle
    }

    async fn entered(&mut self) -> String {
        self.events.entered.recv().await.expect("the test holds a sender")
    }

    fn has_entered(&mut self) -> bool {
        self.events.entered.try_recv().is_ok()
    }

    async fn built(&mut self, _: usize) {
        unreachable!("PHP loads its scripts for each request");
    }

    fn builds(&self) -> usize {
        unreachable!("PHP loads its scripts for each request");
    }

    fn release(&self, path: &str) {
        self.control.release(path);
    }
}

impl Handle for Spawning {
    /// The figures that PHP has.
    fn stats(&self) -> Stats {
        let PhpStats { busy, queued, served, generation, .. } = self.php.stats();
        Stats { busy, queued, served, generation, ..Stats::default() }
    }

    fn gate(&self) -> Gate {
        self.php.gate()
    }

    fn close(&self) {
        self.php.close();
    }

    async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        self.php.shutdown(within).await
    }

    async fn reload(&self) -> Result<(), Error> {
        self.php.reload().await
    }
}
