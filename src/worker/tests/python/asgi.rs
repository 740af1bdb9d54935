//! Tests of ASGI applications.

use std::env;

use super::{
    super::processes::{hook, next},
    *,
};

/// An application without a framework.
pub(super) const APPLICATION: &str = include_str!("asgi_application.py");

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn process_answers_many_requests_at_a_time() {
    // The limit itself, and one of several messages with sockets.
    for (threads, n) in [(8, 8), (129, 129), (usize::MAX, 1000)] {
        let site = Site::start_with(asgi("asgi_application").workers(1).threads(threads));
        assert_eq!(site.pool.stats().workers, n);
        let request = || get(&format!("/barrier?{n}"));
        let requests = (0..n).map(|_| tokio::spawn(site.pool.clone().oneshot(request())));
        for request in requests.collect::<Vec<_>>() {
            assert_eq!(text(&request.await.unwrap().unwrap()), format!("{n} at a time"));
        }
        site.end().await;
    }
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn process_with_a_blocked_event_loop_gets_no_request_while_another_is_idle() {
    let site = Site::start_with(asgi("asgi_application").workers(2).threads(8));
    let blocked = tokio::spawn(site.pool.clone().oneshot(get("/block")));
    site.made("held").await;
    for _ in 0..20 {
        // The request before may still count when its response has arrived. Then both processes run one.
        while site.pool.stats().busy > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(collect(site.get("/other").await.unwrap()).await, "/other");
    }
    assert!(!blocked.is_finished());
    fs::write(site.dir.path().join("go"), "").unwrap();
    assert_eq!(text(&blocked.await.unwrap().unwrap()), "blocked");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn application_whose_signature_cannot_be_read_is_accepted() {
    let site = Site::start_with(asgi("asgi_application:undescribed").workers(1));
    assert_eq!(collect(site.get("/other").await.unwrap()).await, "/other");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn scope_has_the_keys_of_asgi() {
    let site = Site::start_with(asgi("asgi_application").workers(1));
    let mut request = Request::get("/caf%C3%A9/x?a=%20b")
        .header("host", "example.com")
        .header("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap())
        .header("x-a", "1")
        .header("cookie", "a=1")
        .header("x-a", "2, 3")
        .header("cookie", "b=2")
        .body(Body::empty())
        .unwrap();
    let peer = Peer::tcp(([192, 0, 2, 1], 1234).into(), ([192, 0, 2, 9], 443).into());
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(OriginalUri("/mount/caf%C3%A9/x?a=%20b".parse().unwrap()));
    let text = collect(site.call(request).await.unwrap()).await;
    let lines: Vec<&str> = text.lines().collect();
    for expected in [
        "client=('192.0.2.1', 1234)",
        "http_version='1.1'",
        "method='GET'",
        "path='/mount/caf\\xe9/x'",
        "query_string=b'a=%20b'",
        "raw_path=b'/mount/caf%C3%A9/x'",
        "root_path='/mount'",
        "scheme='http'",
        "server=('example.com', 443)",
        "state={'started': True}",
        "type='http'",
    ] {
        assert!(lines.contains(&expected), "{expected} in {text}");
    }
    for fields in [
        "(b'x-latin', b'caf\\xe9')",
        "(b'x-a', b'1'), (b'x-a', b'2, 3')]",
        "(b'cookie', b'a=1; b=2')",
    ] {
        assert!(text.contains(fields), "{text}");
    }
    let mut request = get("/caf");
    request.extensions_mut().insert(Peer::unix().forwarded_for([192, 0, 2, 7].into(), None));
    let text = collect(site.call(request).await.unwrap()).await;
    assert!(text.contains("client=('192.0.2.7', 0)"), "{text}");
    request = get("/caf");
    request.extensions_mut().insert(Peer::unix());
    let text = collect(site.call(request).await.unwrap()).await;
    assert!(text.contains("client=None"), "{text}");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn transfer_encoding_of_an_application_is_ignored() {
    let site = Site::start_with(asgi("asgi_application").workers(1));
    let response = site.get("/relayed").await.unwrap();
    assert_eq!(response.headers()["x-a"], "1");
    assert!(!response.headers().contains_key("transfer-encoding"));
    assert_eq!(collect(response).await, "relayed");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn bodies_are_streamed_both_ways() {
    let site = Site::start_with(asgi("asgi_application").workers(1));
    let (sender, stream) = Body::channel(None);
    sender.send("one".into()).unwrap();
    let mut body = site.call(post("/echo", stream)).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    sender.send("two".into()).unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
    sender.finish(None);
    assert!(body.frame().await.is_none());
    let large = "x".repeat(300_000);
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, large.as_bytes()).unwrap();
    let file = Body::file(FileSlice::new(Arc::new(file), 0, large.len() as u64));
    for body in [file, Body::from(large.clone())] {
        assert_eq!(collect(site.call(post("/echo", body)).await.unwrap()).await, large);
    }
    assert_eq!(collect(site.call(post("/echo", "abc")).await.unwrap()).await, "abc");
    let response = site.get("/path").await.unwrap();
    assert_eq!(response.body().as_file().expect("a file").len(), 4);
    assert_eq!(collect(response).await, "file");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn body_is_read_although_a_task_of_an_earlier_request_waits_for_its_own() {
    let site = Site::start_with(asgi("asgi_application").workers(1).threads(1));
    let (unfinished, stream) = Body::channel(None);
    assert_eq!(text(&site.call(post("/leave-reader", stream)).await.unwrap()), "answered");
    drop(unfinished);
    let (sender, stream) = Body::channel(None);
    sender.send("0".into()).unwrap();
    let mut body = site.call(post("/echo", stream)).await.unwrap().into_body();
    for piece in 0..20 {
        let frame = timeout(LONG, body.frame()).await.expect("the body is read");
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), piece.to_string());
        // The application usually waits for it already.
        sender.send((piece + 1).to_string().into()).unwrap();
    }
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "20");
    sender.finish(None);
    assert!(body.frame().await.is_none());
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn cancelled_receive_loses_nothing_of_the_body() {
    let site = Site::start_with(asgi("asgi_application").workers(1));
    let large: String = (0..100_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let (sender, stream) = Body::channel(None);
    let call = tokio::spawn(site.pool.clone().oneshot(post("/impatient", stream)));
    site.made("waiting").await; // so the body is streamed
    for piece in [large.clone(), "-".to_owned(), large.clone()] {
        sender.send(piece.into()).unwrap();
    }
    sender.finish(None);
    let response = timeout(LONG, call).await.expect("it ends").unwrap().unwrap();
    assert!(collect(response).await == format!("{large}-{large}"));
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn child_of_a_worker_inherits_no_descriptor() {
    for preload in [true, false] {
        let builder = asgi("asgi_application").workers(1).threads(3).preload(preload);
        let site = Site::start_with(builder);
        let (_sender, upload) = Body::channel(None);
        let found = collect(site.call(post("/inheritable", upload)).await.unwrap()).await;
        assert!(found.starts_with("0 of "), "{found}");
        site.end().await;
    }
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn cancelled_send_loses_nothing_of_the_response() {
    let site = Site::start_with(asgi("asgi_application").workers(1).threads(1));
    for _ in 0..2 {
        let response = collect(site.get("/cancelled-send").await.unwrap()).await;
        assert_eq!(response.len(), 4_000_000);
    }
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn request_whose_body_fails_is_answered_with_its_error() {
    let site = Site::start_with(asgi("asgi_application").workers(1).threads(1));
    for path in ["/disconnected", "/echo"] {
        let (sender, stream) = Body::channel(None);
        sender.send("one".into()).unwrap();
        sender.abort(Error::new(Kind::BadRequest, "a malformed chunk"));
        let error = match site.call(post(path, stream)).await {
            Ok(response) => response.into_body().collect().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(kind(&error), Kind::BadRequest, "{path}");
    }
    assert_eq!(site.made("left").await, "http.disconnect");
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn task_that_waits_for_its_client_receives_disconnect_after_the_response() {
    let site = Site::start_with(asgi("asgi_application").workers(1));
    assert_eq!(text(&site.get("/watch").await.unwrap()), "answered");
    timeout(LONG / 6, site.made("watched")).await.expect("before its deadline");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn application_receives_disconnect_of_its_client() {
    let site = Site::start_with(asgi("asgi_application").workers(1));
    let mut body = site.get("/ticks").await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "tick");
    drop(body);
    assert_eq!(site.made("left").await, "http.disconnect");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn application_receives_disconnect_before_its_response_has_begun() {
    let site = Site::start_with(asgi("asgi_application").workers(1).threads(1));
    let call = tokio::spawn(site.pool.clone().oneshot(get("/until-left")));
    site.made("waiting").await;
    call.abort();
    assert_eq!(site.made("left").await, "http.disconnect");
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn task_that_takes_too_long_is_cancelled_and_others_continue() {
    let (on_exit, mut exits) = hook();
    let builder = asgi("asgi_application").workers(1).threads(2).on_exit(on_exit);
    let builder = builder.request_timeout(Duration::from_millis(300));
    let site = Site::start_bounded(builder, Duration::from_millis(100));
    let pid = collect(site.get("/pid").await.unwrap()).await;
    for path in ["/forever", "/forever-after-head"] {
        match site.get(path).await {
            Err(error) => assert_eq!(kind(&error), Kind::Timeout),
            Ok(response) => assert!(response.into_body().collect().await.is_err()),
        }
        assert_eq!(site.made("cancelled").await, "");
        fs::remove_file(site.dir.path().join("cancelled")).unwrap();
    }
    assert_eq!(collect(site.get("/pid").await.unwrap()).await, pid, "its process is not replaced");
    // A task that does not end when it is cancelled.
    assert_eq!(kind(&site.get("/forever-shielded").await.unwrap_err()), Kind::Timeout);
    let (process, _): (WorkerProcess, _) = next(&mut exits).await;
    assert_eq!(process.pid.to_string(), pid);
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn exception_is_application_error() {
    let site = Site::start_with(asgi("asgi_application").workers(1));
    let raised = |message: &str| ApplicationError::Raised { message: message.to_owned() };
    assert_eq!(site.error("/raise").await, raised("KeyError: 'name'"));
    let incomplete = "RuntimeError: the application has not completed its response";
    assert_eq!(site.error("/incomplete").await, raised(incomplete));
    // One of a task that the application waits for, and not of the request's task.
    assert_eq!(site.error("/wait-cancelled").await, raised("asyncio.exceptions.CancelledError"));
    // An exception after the response is logged.
    assert_eq!(text(&site.get("/raise-late").await.unwrap()), "complete");
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn head_that_is_too_large_for_its_frame_is_application_error() {
    let site = Site::start_with(asgi("asgi_application").workers(1).threads(1));
    let error = timeout(LONG / 6, site.error("/large-head")).await.expect("it fails at once");
    let message = "ValueError: the head of the response is too large".to_owned();
    assert_eq!(error, ApplicationError::Raised { message });
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn tasks_that_send_at_the_same_time_are_both_woken() {
    let site = Site::start_with(asgi("asgi_application").workers(1).threads(1));
    let body = site.get("/two-tasks").await.unwrap().into_body();
    let body = timeout(LONG / 6, body.collect()).await.expect("it ends").unwrap().to_bytes();
    let count = |byte: u8| body.iter().filter(|found| **found == byte).count();
    assert_eq!((count(b'a'), count(b'b'), body.len()), (4 << 20, 4 << 20, 8 << 20));
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn task_that_continues_after_its_response_is_not_cancelled_by_reload() {
    let site = Site::start_with(asgi("asgi_application").workers(1));
    assert_eq!(text(&site.get("/background").await.unwrap()), "answered");
    let pool = site.pool.clone();
    let reload = tokio::spawn(async move { pool.reload().await });
    while site.pool.stats().generation < 1 || site.pool.stats().workers > 32 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        assert_eq!(text(&site.get("/").await.unwrap()), "/");
    }
    fs::write(site.dir.path().join("go"), "").unwrap();
    assert_eq!(site.made("background").await, "complete");
    reload.await.unwrap().unwrap();
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn idle_process_that_violates_its_protocol_is_replaced_before_its_next_request() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let site = Site::start_with(asgi("asgi_application").workers(1).threads(1).on_ready(on_ready));
    let before = next(&mut ready).await;
    assert_eq!(text(&site.get("/violate-late").await.unwrap()), "answered");
    let after = next(&mut ready).await;
    assert_ne!(before.pid, after.pid);
    let response = site.call(post("/", Body::empty())).await.unwrap();
    assert_eq!(text(&response), "/");
    site.end().await;
}

#[test]
fn websockets_of_asgi_are_closed_when_a_shutdown_begins() {
    let settings = format!("{:?}", asgi("asgi_application"));
    assert!(settings.contains("drain_timeout: 0ns"), "{settings}");
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn lifespan_is_run_in_each_process() {
    let site = Site::start_with(asgi("asgi_application").workers(1));
    let dir = site.dir.path().to_owned();
    site.pool.shutdown(LONG).await.unwrap();
    assert_eq!(fs::read_to_string(dir.join("lifespan")).unwrap(), "startup shutdown ");
    let error = {
        let builder = asgi("asgi_application:broken").workers(1).directory(&dir);
        builder.start().unwrap_err()
    };
    let early = error.source().unwrap().downcast_ref::<ExitedEarly>().unwrap();
    assert_eq!((early.status, &*early.last_line), (ExitStatus::Code(3), "no database"));
}

/// Starts an application of an installed framework, for one request at a time. Returns the pool and its directory.
fn start_framework(module: &str, application: &str) -> (Processes, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("framework.py"), module).unwrap();
    let python = env::var_os("VESTIBULE_PYTHON").expect("the build has found it");
    let builder = asgi(application).python(Path::new(&python)).directory(dir.path()).workers(1);
    let builder = builder.threads(1).queue_timeout(LONG).env("PYTHONDONTWRITEBYTECODE", "1");
    (builder.start().unwrap(), dir)
}

fn get_localhost(path: &str) -> Request {
    let mut request = get(path);
    request.headers_mut().insert("host", HeaderValue::from_static("localhost"));
    request
}

/// Runs an application of an installed framework; returns its response.
async fn answer_of(module: &str, application: &str, path: &str) -> String {
    let (pool, _dir) = start_framework(module, application);
    let answer = collect(pool.clone().oneshot(get_localhost(path)).await.unwrap()).await;
    pool.shutdown(LONG).await.unwrap();
    answer
}

#[tokio::test]
#[cfg_attr(not(peer_django), ignore = "needs VESTIBULE_PYTHON with Starlette")]
async fn starlette_application_answers() {
    let module = include_str!("frameworks/starlette_application.py");
    assert_eq!(answer_of(module, "framework:app", "/items/7?q=a").await, "7 a ready one two");
}

#[tokio::test]
#[cfg_attr(not(peer_django), ignore = "needs VESTIBULE_PYTHON with Starlette")]
async fn silent_stream_of_starlette_ends_when_its_client_leaves() {
    let module = include_str!("frameworks/starlette_application.py");
    let (pool, _dir) = start_framework(module, "framework:app");
    let response = pool.clone().oneshot(get_localhost("/silent")).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    drop(body);
    let next = pool.clone().oneshot(get_localhost("/items/7?q=a"));
    let response = timeout(LONG / 6, next).await.expect("the worker is free").unwrap();
    assert_eq!(collect(response).await, "7 a ready one two");
    pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_django), ignore = "needs VESTIBULE_PYTHON with FastAPI")]
async fn fastapi_application_answers() {
    let module = include_str!("frameworks/fastapi_application.py");
    let answer = answer_of(module, "framework:app", "/items/7?q=a").await;
    assert_eq!(answer, r#"{"number":7,"q":"a"}"#);
}

#[tokio::test]
#[cfg_attr(not(peer_django), ignore = "needs VESTIBULE_PYTHON with Django")]
async fn async_view_of_django_answers() {
    let module = include_str!("frameworks/django_application.py");
    assert_eq!(answer_of(module, "framework", "/items/7/?q=a").await, "7 a");
}
