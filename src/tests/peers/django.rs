//! Tests with a Django site that gunicorn runs on a Unix socket.

use std::{
    env,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{net::UnixStream, process::Command, task::JoinSet};
use tower::{ServiceBuilder, ServiceExt};

use super::{curl, listening};
use crate::{
    Body, Request,
    layer::{RequestBufferLayer, ResponseBufferLayer},
    tests::support::{TIMEOUT, start, within},
    upstream::Upstream,
    worker,
};

#[tokio::test]
#[cfg_attr(
    not(all(peer_django, peer_curl)),
    ignore = "pip install -r examples/django/requirements.txt; VESTIBULE_PYTHON=that python"
)]
async fn forms_and_sessions_work_through_the_front() {
    let python = env::var("VESTIBULE_PYTHON").expect("VESTIBULE_PYTHON names a Python with Django");
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/django");
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("app.sock");
    let run = |args: &[&str]| {
        let mut command = Command::new(&python);
        command.args(args).current_dir(&project).kill_on_drop(true).stdin(Stdio::null());
        command.env("DJANGO_DB", dir.path().join("db.sqlite3")).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let migrated = within(run(&["manage.py", "migrate", "--verbosity", "0"]).status()).await;
    assert!(migrated.unwrap().success(), "Django is installed");
    let bind = format!("unix:{}", socket.display());
    let mut gunicorn = run(&[
        "-m",
        "gunicorn",
        "--bind",
        &bind,
        "--workers",
        "2",
        "--log-level",
        "warning",
        "mysite.wsgi",
    ])
    .spawn()
    .unwrap();
    listening(&mut gunicorn, async || UnixStream::connect(&socket).await.is_ok()).await;

    let front = start(
        ServiceBuilder::new()
            .layer(ResponseBufferLayer::new())
            .layer(RequestBufferLayer::new())
            .service(Upstream::new([&bind]).unwrap()),
    )
    .await;
    let url = |path: &str| format!("http://{}{path}", front.addr);
    let jar = dir.path().join("jar");
    let jar = jar.to_str().unwrap();
    let browse = async |args: &[&str]| {
        curl(&[&["--cookie", jar, "--cookie-jar", jar, "--location"], args].concat()).await
    };

    let page = browse(&[&url("/")]).await;
    assert!(page.contains("You have been here 1 time."), "{page}");
    let page = browse(&["--data", &format!("{}&name=Ann", token(&page)), &url("/name/")]).await;
    assert!(page.contains("You have been here 2 times, Ann."), "{page}");
    let form = format!("{}&message=Good+tea+%26+scones", token(&page));
    let page = browse(&["--data", &form, &url("/")]).await;
    assert!(page.contains("<b>Ann</b>: Good tea &amp; scones"), "{page}");
    assert!(page.contains("You have been here 4 times, Ann."), "{page}");

    // Django refuses the form without the token.
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let refused = curl(&[&status[..], &["--data", "message=x", &url("/")]].concat()).await;
    assert_eq!(refused, "403");

    // Forwarding fields of the client do not reach the site.
    let forged = ["--header", "X-Forwarded-For: 6.6.6.6", "--header", "X-Forwarded-Proto: https"];
    let seen = curl(&[&forged[..], &[&url("/whoami/")]].concat()).await;
    assert!(seen.contains("\"forwarded_for\": \"127.0.0.1\""), "{seen}");
    assert!(seen.contains("\"secure\": false"), "{seen}");
    assert!(seen.contains(&format!("\"host\": \"{}\"", front.addr)), "{seen}");

    front.stop().await;
    // gunicorn ends its workers at SIGTERM; if it were killed, they would remain.
    let pid = gunicorn.id().unwrap().to_string();
    assert!(within(Command::new("kill").arg(pid).status()).await.unwrap().success());
    within(gunicorn.wait()).await.unwrap();
}

/// Returns the CSRF token of a page as a field of a form.
pub(super) fn token(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"csrfmiddlewaretoken\" value=\"").unwrap();
    format!("csrfmiddlewaretoken={}", rest.split('"').next().unwrap())
}

/// The same site, with gunicorn as the worker of a pool.
#[tokio::test]
#[cfg_attr(
    not(all(peer_django, peer_curl)),
    ignore = "pip install -r examples/django/requirements.txt; VESTIBULE_PYTHON=that python"
)]
async fn gunicorn_is_supervised_and_reloaded_without_a_failed_request() {
    let python = env::var("VESTIBULE_PYTHON").expect("VESTIBULE_PYTHON names a Python with Django");
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/django");
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("db.sqlite3");
    let mut migrate = Command::new(&python);
    migrate.args(["manage.py", "migrate", "--verbosity", "0"]).current_dir(&project);
    migrate.env("DJANGO_DB", &database).env("PYTHONDONTWRITEBYTECODE", "1");
    assert!(within(migrate.status()).await.unwrap().success(), "Django is installed");
    let gunicorn = worker::Command::new(&python)
        .args(["-m", "gunicorn", "--log-level", "warning", "mysite.wsgi"])
        .current_dir(&project)
        .env("DJANGO_DB", &database)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let pool = worker::process(gunicorn).workers(2).start().unwrap();
    let front = start(
        ServiceBuilder::new()
            .layer(ResponseBufferLayer::new())
            .layer(RequestBufferLayer::new())
            .service(pool.clone()),
    )
    .await;
    let url = format!("http://{}", front.addr);
    let jar = dir.path().join("jar");
    let jar = ["--cookie", jar.to_str().unwrap(), "--cookie-jar", jar.to_str().unwrap()];
    let browse = async |args: &[&str]| curl(&[&jar[..], &["--location"], args].concat()).await;
    let page = browse(&[&url]).await;
    assert!(page.contains("You have been here 1 time."), "{page}");
    let form = format!("{}&message=Good+tea+%26+scones", token(&page));
    let page = browse(&["--data", &form, &url]).await;
    assert!(page.contains("Good tea &amp; scones"), "{page}");
    let seen = curl(&["--header", "X-Forwarded-For: 6.6.6.6", &format!("{url}/whoami/")]).await;
    assert!(seen.contains("\"forwarded_for\": \"127.0.0.1\""), "{seen}");

    let is_reloading = Arc::new(AtomicBool::new(true));
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (pool, is_reloading) = (pool.clone(), is_reloading.clone());
        load.spawn(async move {
            let mut served = 0;
            while is_reloading.load(Ordering::Relaxed) {
                let request = Request::post("/whoami/").body(Body::empty()).unwrap();
                let response = pool.clone().oneshot(request).await.unwrap();
                // A refusal because of the missing token is a response of Django, too.
                assert!([200, 403].contains(&response.status().as_u16()), "{response:?}");
                served += 1;
            }
            served
        });
    }
    for _ in 0..2 {
        within(pool.reload()).await.unwrap();
    }
    is_reloading.store(false, Ordering::Relaxed);
    let served: usize = load.join_all().await.into_iter().sum();
    assert!(served > 0);
    assert_eq!((pool.stats().workers, pool.stats().generation, pool.stats().panics), (2, 2, 0));
    front.stop().await;
    within(pool.shutdown(TIMEOUT)).await.unwrap();
}
