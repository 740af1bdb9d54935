//! Tests of ASGI applications.

use std::env;

use super::*;

/// An application without a framework.
pub(super) const APPLICATION: &str = include_str!("asgi_application.py");

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn process_answers_many_requests_at_a_time() {
    let site = Site::start_with(asgi("asgi_application").workers(1).threads(8));
    let requests = (0..8).map(|_| tokio::spawn(site.pool.clone().oneshot(get("/barrier"))));
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(text(&request.await.unwrap().unwrap()), "8 at a time");
    }
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn scope_has_the_keys_of_asgi() {
    let site = Site::start_with(asgi("asgi_application").workers(1));
    let mut request = Request::get("/caf%C3%A9/x?a=%20b")
        .header("host", "example.com")
        .header("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap())
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
    assert!(text.contains("(b'x-latin', b'caf\\xe9')"), "{text}");
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
    let builder = asgi("asgi_application").workers(1).threads(2);
    let site = Site::start_with(builder.request_timeout(Duration::from_millis(300)));
    let error = site.get("/forever").await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    assert_eq!(site.made("cancelled").await, "");
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
    // An exception after the response is logged.
    assert_eq!(text(&site.get("/raise-late").await.unwrap()), "complete");
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    site.end().await;
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

/// Runs an application of an installed framework; returns its response.
async fn answer_of(module: &str, application: &str, path: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("framework.py"), module).unwrap();
    let python = env::var_os("VESTIBULE_PYTHON").expect("the build has found it");
    let builder = asgi(application).python(Path::new(&python)).directory(dir.path()).workers(1);
    let pool = builder.env("PYTHONDONTWRITEBYTECODE", "1").start().unwrap();
    let mut request = get(path);
    request.headers_mut().insert("host", HeaderValue::from_static("localhost"));
    let answer = collect(pool.clone().oneshot(request).await.unwrap()).await;
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
