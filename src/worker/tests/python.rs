//! Tests of WSGI applications from the caller's point of view.

mod ahead;
mod asgi;
mod descriptors;
mod faults;
mod health;
mod pool;
mod refork;
mod runtimes;
mod signals;
mod zygotes;

use std::{env, fs, path::Path, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method};
use http_body_util::BodyExt;
use tempfile::TempDir;
use tokio::time::timeout;
use tower::ServiceExt;

use super::{
    super::*,
    processes::{ROLE, in_role},
    *,
};
use crate::{body::FileSlice, peer::Peer, proto::gate::BadHead, semantics::target::OriginalUri};

/// An application whose behaviour depends on the path.
const APPLICATION: &str = include_str!("python/application.py");

/// A pool of one worker, and the directory of its application.
pub(super) struct Site {
    pub(super) dir: TempDir,
    pool: Processes,
}

impl Site {
    pub(super) fn start(application: &str) -> Self {
        Self::start_with(wsgi(application).workers(1).queue_timeout(LONG))
    }

    /// Starts a pool with the applications of these tests in its directory.
    pub(super) fn start_with(builder: ProcessesBuilder<Python>) -> Self {
        Self::start_bounded(builder, LONG)
    }

    fn start_bounded(builder: ProcessesBuilder<Python>, stop_timeout: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("application.py"), APPLICATION).unwrap();
        fs::write(dir.path().join("asgi_application.py"), asgi::APPLICATION).unwrap();
        let builder = builder.directory(dir.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        let pool = builder.stop_timeout(stop_timeout).start().unwrap();
        Self { dir, pool }
    }

    pub(super) fn pool(&self) -> &Processes {
        &self.pool
    }

    pub(super) async fn call(&self, request: Request) -> Result<Response, BoxError> {
        self.pool.clone().oneshot(request).await
    }

    pub(super) async fn get(&self, path: &str) -> Result<Response, BoxError> {
        self.call(get(path)).await
    }

    /// Returns the exception of the application, or the fault of its response.
    async fn error(&self, path: &str) -> ApplicationError {
        let error = self.get(path).await.unwrap_err();
        assert_eq!(kind(&error), Kind::Internal);
        cause(&error)
    }

    /// Shuts the pool down, and checks that the one worker has served all requests.
    pub(super) async fn end(self) {
        assert_eq!(self.pool.stats().panics, 0);
        self.pool.shutdown(LONG).await.unwrap();
    }

    /// Waits until the application has created this file; returns its content.
    pub(super) async fn made(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        let content = async {
            loop {
                match fs::read_to_string(&path) {
                    Ok(content) => return content,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        timeout(LONG, content).await.expect("it is made")
    }
}

pub(super) fn post(path: &str, body: impl Into<Body>) -> Request {
    Request::post(path).body(body.into()).unwrap()
}

pub(super) async fn collect(response: Response) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn environ_has_the_variables_of_cgi_and_pep_3333() {
    let site = Site::start("application");
    let mut request = Request::post("/caf%C3%A9/x?a=%20b")
        .header("host", "example.com:8443")
        .header("content-type", "text/plain")
        .header("x-a", "1")
        .header("x-a", "2")
        .header("x_a", "forged")
        .header("proxy", "evil")
        .header("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap())
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .body(Body::from("abc"))
        .unwrap();
    let peer = Peer::tcp(([192, 0, 2, 1], 1234).into(), ([192, 0, 2, 9], 443).into());
    request.extensions_mut().insert(peer.forwarded_proto(http::uri::Scheme::HTTPS));
    request.extensions_mut().insert(OriginalUri("/mount/caf%C3%A9/x?a=%20b".parse().unwrap()));
    let text = collect(site.call(request).await.unwrap()).await;
    let lines: Vec<&str> = text.lines().collect();
    for expected in [
        "CONTENT_LENGTH='3'",
        "CONTENT_TYPE='text/plain'",
        "GATEWAY_INTERFACE='CGI/1.1'",
        "HTTPS='on'",
        "HTTP_HOST='example.com:8443'",
        "HTTP_X_A='1, 2'",
        "HTTP_X_FORWARDED_FOR='192.0.2.1'",
        "HTTP_X_LATIN='caf\\xe9'",
        "PATH_INFO='/caf\\xc3\\xa9/x'",
        "QUERY_STRING='a=%20b'",
        "REMOTE_ADDR='192.0.2.1'",
        "REMOTE_PORT='1234'",
        "REQUEST_METHOD='POST'",
        "REQUEST_URI='/mount/caf%C3%A9/x?a=%20b'",
        "SCRIPT_NAME='/mount'",
        "SERVER_NAME='example.com'",
        "SERVER_PORT='443'",
        "SERVER_PROTOCOL='HTTP/1.1'",
        "wsgi.multiprocess=True",
        "wsgi.multithread=False",
        "wsgi.run_once=False",
        "wsgi.url_scheme='https'",
        "wsgi.version=(1, 0)",
    ] {
        assert!(lines.contains(&expected), "{expected} in {text}");
    }
    assert!(!text.contains("evil") && !text.contains("HTTP_X_HOP"), "{text}");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn application_passes_the_validator_of_the_standard_library() {
    let site = Site::start("application:validated");
    for request in [get("/pieces"), get("/read?"), post("/read", "abc"), get("/error-log")] {
        let response = site.call(request).await.unwrap();
        assert_eq!(response.status(), 200);
        collect(response).await;
    }
    let mut request = get("/pieces");
    *request.method_mut() = Method::HEAD;
    assert_eq!(site.call(request).await.unwrap().status(), 200);
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn path_that_decodes_ambiguously_is_refused() {
    let site = Site::start("application");
    for path in ["/a%2fb", "/%2e%2e/a", "/a%00b", "/%zz"] {
        let error = site.get(path).await.unwrap_err();
        assert_eq!(kind(&error), Kind::BadRequest, "{path}");
    }
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn body_is_read_to_its_end_from_memory_file_and_stream() {
    let site = Site::start("application");
    let content = format!("first\nsecond\n{}", "x".repeat(300_000));
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, format!("before{content}after").as_bytes()).unwrap();
    let file = Body::file(FileSlice::new(Arc::new(file), 6, content.len() as u64));
    let (sender, stream) = Body::channel(None);
    let whole = content.clone();
    let writer = async move {
        for piece in whole.as_bytes().chunks(7000) {
            std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
            sender.send(Bytes::copy_from_slice(piece)).unwrap();
        }
        sender.finish(None);
    };
    let expected = format!("first\\n second\\n {}", content.len() - 13);
    let (answer, ()) = tokio::join!(site.call(post("/read", stream)), writer);
    assert_eq!(collect(answer.unwrap()).await, expected);
    for body in [file, Body::from(content)] {
        assert_eq!(collect(site.call(post("/read", body)).await.unwrap()).await, expected);
    }
    let short = site.call(post("/read", "first\nsecond\nxyz")).await.unwrap();
    assert_eq!(text(&short), "first\\n second\\n 3");
    assert_eq!(text(&site.get("/read").await.unwrap()), "  0");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn incomplete_body_is_error_in_the_application_and_of_the_client() {
    let site = Site::start("application");
    let (sender, stream) = Body::channel(None);
    sender.send("first\n".into()).unwrap();
    sender.abort("the client has left");
    let error = site.call(post("/read", stream)).await.unwrap_err();
    assert_eq!(kind(&error), Kind::ClientGone);
    assert!(error.to_string().contains("the client has left"), "{error}");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn application_that_detaches_its_input_is_answered() {
    let site = Site::start("application");
    for _ in 0..2 {
        let (_sender, upload) = Body::channel(None);
        let response = site.call(post("/detach", upload)).await.unwrap();
        assert_eq!(collect(response).await, "detached");
        assert_eq!(site.pool.stats().unexpected_exits, 0);
    }
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn first_piece_is_sent_before_the_application_makes_the_rest() {
    let site = Site::start("application");
    for path in ["/slow", "/written"] {
        let mut body = site.get(path).await.unwrap().into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "first");
        fs::write(site.dir.path().join("go"), "").unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "rest");
        fs::remove_file(site.dir.path().join("go")).unwrap();
        assert_eq!(site.made("closed").await, path);
        fs::remove_file(site.dir.path().join("closed")).unwrap();
    }
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn streamed_response_whose_client_leaves_is_closed() {
    let site = Site::start("application");
    let mut body = site.get("/ticks").await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "tick");
    drop(body);
    assert_eq!(site.made("closed").await, "/ticks");
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_is_free_although_the_response_of_a_client_that_left_cannot_be_closed() {
    let site = Site::start("application");
    let mut body = site.get("/ticks-unclosable").await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "tick");
    drop(body);
    assert_eq!(site.made("closed").await, "/ticks-unclosable");
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    assert_eq!(site.pool.stats().abandoned, 0, "it was not stopped");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn file_of_the_file_wrapper_stays_a_file() {
    let site = Site::start("application");
    let response = site.get("/file").await.unwrap();
    let file = response.body().as_file().expect("a file");
    assert_eq!((file.offset(), file.len()), (5, 10));
    assert_eq!(collect(response).await, "5678901234");
    // An object that is not a file is read by the application.
    assert_eq!(collect(site.get("/no-file").await.unwrap()).await, "in memory");
    assert_eq!(collect(site.get("/gzip-file").await.unwrap()).await, "decoded");
    let response = site.get("/temporary-file").await.unwrap();
    assert_eq!(response.body().as_file().expect("a file").len(), 9);
    assert_eq!(collect(response).await, "temporary");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn exception_is_application_error_and_worker_continues() {
    let site = Site::start("application");
    let raised = |message: &str| ApplicationError::Raised { message: message.to_owned() };
    assert_eq!(site.error("/raise").await, raised("KeyError: 'name'"));
    assert_eq!(site.error("/exit").await, raised("SystemExit: 3"));
    let not_started = "AssertionError: start_response was not called";
    assert_eq!(site.error("/not-started").await, raised(not_started));
    assert!(matches!(site.error("/huge-head").await, ApplicationError::Raised { .. }));
    // Before anything was sent, the head can still be replaced.
    let response = site.get("/exc-info").await.unwrap();
    assert_eq!((response.status().as_u16(), text(&response)), (503, "sorry".to_owned()));
    // After that the body is aborted.
    for path in ["/raise-late", "/exc-info-late"] {
        let mut body = site.get(path).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(cause::<ApplicationError>(&error), raised("KeyError: 'late'"));
    }
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn invalid_response_is_an_error_of_the_application() {
    let site = Site::start("application");
    assert!(matches!(site.error("/split").await, ApplicationError::Head(_)));
    assert!(matches!(site.error("/number").await, ApplicationError::Head(_)));
    let error = ApplicationError::Length { declared: 9, actual: 3 };
    assert_eq!(site.error("/length?9").await, error);
    let error = ApplicationError::Length { declared: 2, actual: 3 };
    assert_eq!(site.error("/length?2").await, error);
    for (path, error) in [
        ("/stream-length?9", ApplicationError::TooShort { missing: 3 }),
        ("/stream-length?5", ApplicationError::TooLong),
    ] {
        let body = site.get(path).await.unwrap().into_body();
        assert_eq!(cause::<ApplicationError>(&body.collect().await.unwrap_err()), error);
    }
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn value_of_wrong_type_is_an_error_of_the_application() {
    let site = Site::start("application");
    for (what, found) in [("body", "str"), ("piece", "str"), ("number", "int")] {
        let ApplicationError::Raised { message } = site.error(&format!("/mistyped?{what}")).await
        else {
            panic!("{what}");
        };
        let expected = format!("TypeError: a body must contain bytes, not <class '{found}'>");
        assert_eq!(message, expected);
    }
    for what in ["status", "fields", "field", "list", "integer", "begun"] {
        let error = site.error(&format!("/mistyped?{what}")).await;
        assert_eq!(error, ApplicationError::Head(BadHead::Type), "{what}");
    }
    assert_eq!(text(&site.get("/mistyped?view").await.unwrap()), "view");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn response_to_head_has_the_length_and_no_body() {
    let site = Site::start("application");
    for (path, length) in [("/length?3", Some("3")), ("/", Some("1")), ("/ticks", None)] {
        let mut request = get(path);
        *request.method_mut() = Method::HEAD;
        let response = site.call(request).await.unwrap();
        let value = response.headers().get("content-length").map(|v| v.to_str().unwrap());
        assert_eq!((response.body().len(), value), (Some(0), length), "{path}");
    }
    assert_eq!(site.get("/no-content").await.unwrap().body().len(), Some(0));
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_that_violates_the_protocol_is_replaced_and_its_request_is_bad_gateway() {
    // A signal just before Python's sleep does not end it, so the worker must sometimes be killed.
    let builder = wsgi("application").workers(1).queue_timeout(LONG);
    let site = Site::start_bounded(builder, SHORT);
    for path in ["/garbage", "/other-request", "/descriptor", "/no-regular-file"] {
        let error = site.call(post(path, Body::empty())).await.unwrap_err();
        assert_eq!(kind(&error), Kind::BadGateway, "{path}");
        let source = Error::find(&*error).unwrap().source().unwrap();
        let source = source.downcast_ref::<GateError>().unwrap();
        assert!(matches!(source, GateError::Fault(_)), "{path}: {source}");
        assert_eq!(text(&site.get("/").await.unwrap()), "/", "{path}");
    }
    let mut body = site.get("/garbage-late").await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    assert_eq!(kind(&body.frame().await.unwrap().unwrap_err()), Kind::BadGateway);
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    assert_eq!(site.pool.stats().panics, 5);
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_that_takes_too_long_gets_system_exit() {
    let builder = wsgi("application").workers(1);
    let site = Site::start_with(builder.request_timeout(Duration::from_millis(300)));
    let error = site.get("/forever").await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    assert_eq!(site.made("ended").await, "SystemExit");
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn start_reports_why_an_application_cannot_be_loaded() {
    let start = |builder: ProcessesBuilder<Python>| {
        let error = builder.workers(1).start().unwrap_err();
        error.source().unwrap().downcast_ref::<ExitedEarly>().map(|early| early.last_line.clone())
    };
    let missing = Some("ModuleNotFoundError: No module named 'no_such_module'".to_owned());
    assert_eq!(start(wsgi("no_such_module.wsgi:application")), missing);
    let missing = "AttributeError: module 'wsgiref' has no attribute 'application'";
    assert_eq!(start(wsgi("wsgiref")), Some(missing.to_owned()));
    let error =
        wsgi("wsgiref").python(Path::new("/no/such/python")).workers(1).start().unwrap_err();
    let error = error.source().unwrap().to_string();
    assert_eq!(error, "cannot start /no/such/python: No such file or directory (os error 2)");
}

#[test]
fn interpreter_is_that_of_the_virtual_environment_unless_another_is_set() {
    const TEST: &str =
        "python::interpreter_is_that_of_the_virtual_environment_unless_another_is_set";
    if env::var_os(ROLE).is_some() {
        let start = |builder: ProcessesBuilder<Python>| {
            builder.workers(1).start().unwrap_err().source().unwrap().to_string()
        };
        let error = start(wsgi("wsgiref"));
        assert!(error.starts_with("cannot start /no/such/venv/bin/python: "), "{error}");
        let error = start(wsgi("wsgiref").python("/no/such/python"));
        assert!(error.starts_with("cannot start /no/such/python: "), "{error}");
        return;
    }
    let output = in_role(TEST).env("VIRTUAL_ENV", "/no/such/venv").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn start_refuses_an_object_that_is_no_application_of_the_interface() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("application.py"), APPLICATION).unwrap();
    fs::write(dir.path().join("asgi_application.py"), asgi::APPLICATION).unwrap();
    for (builder, reason) in [
        (wsgi("os:sep"), "TypeError: os:sep is no application: 'str' is not callable"),
        (
            wsgi("asgi_application"),
            "TypeError: asgi_application is an application of ASGI, not of WSGI",
        ),
        (asgi("application"), "TypeError: application is an application of WSGI, not of ASGI"),
    ] {
        let error = builder.directory(dir.path()).workers(1).start().unwrap_err();
        let early = error.source().unwrap().downcast_ref::<ExitedEarly>().unwrap();
        assert_eq!(early.last_line, reason);
    }
}

/// An application whose process gets SIGTERM while it ends.
const STOPPED_AT_EXIT: &str = "
import atexit, os, signal, sys
sys.stderr = open('errors', 'w', buffering=1)
atexit.register(lambda: (os.kill(os.getpid(), signal.SIGTERM), [None for _ in range(1000)]))
def application(environ, start_response):
    start_response('200 OK', [])
    return [b'']
";

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn stop_signal_while_a_process_ends_is_not_reported_as_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("stopped.py"), STOPPED_AT_EXIT).unwrap();
    let pool = wsgi("stopped").directory(dir.path()).workers(1).preload(false).start().unwrap();
    pool.shutdown(LONG).await.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("errors")).unwrap(), "");
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn application_may_be_a_factory_or_an_attribute() {
    for application in ["application:create()", "application:Namespace.application"] {
        let site = Site::start(application);
        assert_eq!(text(&site.get("/").await.unwrap()), "/");
        site.end().await;
    }
}
