//! A real Django site, run by gunicorn on a Unix socket, behind the front.

use std::{env, path::Path, process::Stdio};

use tokio::{net::UnixStream, process::Command};
use tower::ServiceBuilder;

use super::{curl, listening};
use crate::{
    layer::{RequestBufferLayer, ResponseBufferLayer},
    tests::support::{start, within},
    upstream::Upstream,
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

    // Without the token the form is refused, by Django.
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let refused = curl(&[&status[..], &["--data", "message=x", &url("/")]].concat()).await;
    assert_eq!(refused, "403");

    // What the client says of itself does not reach it.
    let lie = ["--header", "X-Forwarded-For: 6.6.6.6", "--header", "X-Forwarded-Proto: https"];
    let seen = curl(&[&lie[..], &[&url("/whoami/")]].concat()).await;
    assert!(seen.contains("\"forwarded_for\": \"127.0.0.1\""), "{seen}");
    assert!(seen.contains("\"secure\": false"), "{seen}");
    assert!(seen.contains(&format!("\"host\": \"{}\"", front.addr)), "{seen}");

    front.stop().await;
    // gunicorn ends its workers when it is asked to end; killed, it would leave them.
    let pid = gunicorn.id().unwrap().to_string();
    assert!(within(Command::new("kill").arg(pid).status()).await.unwrap().success());
    within(gunicorn.wait()).await.unwrap();
}

/// The CSRF token of a page, as a field of a form.
fn token(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"csrfmiddlewaretoken\" value=\"").unwrap();
    format!("csrfmiddlewaretoken={}", rest.split('"').next().unwrap())
}
