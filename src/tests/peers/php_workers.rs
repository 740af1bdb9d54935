//! PHP, started and supervised by `worker::php`.

mod processes;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tower::{ServiceBuilder, ServiceExt};

use crate::{
    Body, Error, Request,
    error::Kind,
    layer::RequestBufferLayer,
    tests::support::{TIMEOUT, exchange, start, statuses, within},
    worker::{self, Php, PhpBuilder},
};

const FRONT_CONTROLLER: &str = "<?php
    session_save_path($_SERVER['SESSIONS']);
    if ($_SERVER['REQUEST_URI'] === '/session') {
        session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo 'visit ', $_SESSION['n'];
    } elseif ($_SERVER['REQUEST_URI'] === '/upload') {
        $f = $_FILES['f']; echo $f['name'], ' ', $f['size'], ' ', file_get_contents($f['tmp_name']);
    } else {
        echo 'front ', $_SERVER['REQUEST_URI'];
    }";

/// A directory that any user may read: scripts have another one than these tests if that is root.
fn site() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let root = dir.path().join("one");
    fs::create_dir_all(root.join("uploads")).unwrap();
    let sessions = dir.path().join("sessions");
    fs::create_dir(&sessions).unwrap();
    fs::set_permissions(&sessions, fs::Permissions::from_mode(0o777)).unwrap();
    let write = |name: &str, code: &str| fs::write(root.join(name), code).unwrap();
    write("index.php", FRONT_CONTROLLER);
    write("info.php", "<?php echo $_SERVER['SCRIPT_NAME'], ' ', $_SERVER['PATH_INFO'] ?? '-';");
    write("pid.php", "<?php echo getmypid(), ' ', getenv('APP_ENV'), ' ', posix_getppid();");
    write("sleep.php", "<?php echo 'a'; flush(); sleep (60);");
    write("uploads/x.jpg", "<?php echo 'run';");
    fs::write(dir.path().join("outside.php"), "<?php echo 'run';").unwrap();
    symlink("../outside.php", root.join("outside.php")).unwrap();
    symlink(&root, dir.path().join("current")).unwrap();
    dir
}

fn builder(dir: &Path) -> PhpBuilder {
    let sessions = dir.join("sessions").display().to_string();
    let php = worker::php(dir.join("current")).children(2);
    let php = php.env("SESSIONS", sessions).env("APP_ENV", "test");
    match rustix::process::geteuid().is_root() {
        true => php.user(65534, 65534),
        false => php,
    }
}

async fn get(php: &Php, path: &str) -> Result<String, crate::BoxError> {
    let request = Request::get(path).header("host", "a").body(Body::empty()).unwrap();
    let response = within(php.clone().oneshot(request)).await?;
    let status = response.status();
    let body = within(response.into_body().collect()).await?.to_bytes();
    Ok(format!("{} {}", status.as_u16(), String::from_utf8_lossy(&body)))
}

async fn ok(php: &Php, path: &str) -> String {
    get(php, path).await.unwrap()
}

async fn shut_down(php: Php) {
    within(php.shutdown(TIMEOUT)).await.unwrap();
    assert!(!php.stats().is_ready);
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn php_runs_scripts_of_its_directory_and_nothing_else() {
    let dir = site();
    let php = builder(dir.path()).start().unwrap();
    assert_eq!(ok(&php, "/info.php/a/b").await, "200 /info.php /a/b");
    assert_eq!(ok(&php, "/no/such/page?x=1").await, "200 front /no/such/page?x=1");
    assert!(ok(&php, "/pid.php").await.contains(" test "));
    // Neither an upload with another suffix, nor what a link leads to outside.
    assert!(ok(&php, "/uploads/x.jpg/y.php").await.starts_with("404"));
    assert_eq!(ok(&php, "/uploads/x.jpg").await, "200 front /uploads/x.jpg");
    assert!(ok(&php, "/outside.php").await.starts_with("404"));
    let error = get(&php, "/../outside.php").await.unwrap_err();
    assert_eq!(Error::find(&*error).unwrap().kind(), Kind::BadRequest);
    shut_down(php).await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn path_without_a_script_is_handled_by_the_front_controller_if_there_is_one() {
    let dir = site();
    let php = builder(dir.path()).without_front_controller().start().unwrap();
    assert!(ok(&php, "/page").await.starts_with("404"));
    assert_eq!(ok(&php, "/").await, "200 front /", "the index of the folder");
    shut_down(php).await;
    let php = builder(dir.path()).front_controller("info.php").start().unwrap();
    assert_eq!(ok(&php, "/page").await, "200 /info.php -");
    shut_down(php).await;
    fs::remove_file(dir.path().join("one/index.php")).unwrap();
    let php = builder(dir.path()).start().unwrap();
    assert!(ok(&php, "/page").await.starts_with("404"), "the default does not exist");
    shut_down(php).await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn php_keeps_sessions_and_takes_uploads() {
    let dir = site();
    let php = builder(dir.path()).start().unwrap();
    let service = ServiceBuilder::new().layer(RequestBufferLayer::new()).service(php.clone());
    let front = start(service).await;
    let first =
        exchange(front.addr, "GET /session HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let first = first.await;
    let (_, cookie) = first.split_once("set-cookie: ").expect("a session");
    let cookie = cookie.split(';').next().unwrap();
    let again = format!(
        "GET /session HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
    );
    let again = exchange(front.addr, again).await;
    assert!(first.ends_with("visit 1") && again.ends_with("visit 2"), "{first}{again}");

    let form = "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\nhello\r\n--b--\r\n";
    let head = "POST /upload HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
                Content-Type: multipart/form-data; boundary=b\r\n\r\n";
    let post = format!("{head}{:x}\r\n{form}\r\n0\r\n\r\n", form.len());
    let answer = exchange(front.addr, post).await;
    assert_eq!(statuses(&answer), [200]);
    assert!(answer.ends_with("a.txt 5 hello"), "{answer}");
    front.stop().await;
    shut_down(php).await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn reload_takes_the_next_release_without_a_failed_request() {
    let dir = site();
    let php = builder(dir.path()).start().unwrap();
    let next = dir.path().join("two");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("index.php"), "<?php echo 'second release';").unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (php, stopped) = (php.clone(), stopped.clone());
        load.spawn(async move {
            let mut served = 0;
            while !*stopped.borrow() {
                let answer = ok(&php, "/").await;
                assert!(["200 front /", "200 second release"].contains(&&*answer), "{answer}");
                served += 1;
            }
            served
        });
    }
    fs::remove_file(dir.path().join("current")).unwrap();
    symlink(&next, dir.path().join("current")).unwrap();
    for generation in 1..=2 {
        within(php.reload()).await.unwrap();
        assert_eq!(ok(&php, "/").await, "200 second release");
        assert_eq!(php.stats().generation, generation);
    }
    stop.send(true).unwrap();
    assert!(load.join_all().await.into_iter().sum::<usize>() > 0);
    assert_eq!(php.stats().unexpected_exits, 0);
    shut_down(php).await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn reload_lets_the_old_instance_complete_its_requests() {
    let dir = site();
    let release = dir.path().join("release");
    let wait = format!(
        "<?php echo 'begun'; flush(); while (!file_exists('{}')) {{ usleep (1000); clearstatcache(); }} echo ' done';",
        release.display()
    );
    fs::write(dir.path().join("one/wait.php"), wait).unwrap();
    let php = builder(dir.path()).ini("output_buffering", "0").start().unwrap();
    let request = Request::get("/wait.php").header("host", "a").body(Body::empty()).unwrap();
    let response = within(php.clone().oneshot(request)).await.unwrap();
    within(php.reload()).await.unwrap();
    assert_eq!((php.stats().generation, php.stats().busy), (1, 1));
    assert_eq!(ok(&php, "/a").await, "200 front /a");
    fs::write(release, "").unwrap();
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body, "begun done");
    shut_down(php).await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn php_is_sent_no_more_requests_than_it_has_processes() {
    let dir = site();
    let php = builder(dir.path()).queue(0).ini("output_buffering", "0").start().unwrap();
    let endless = || {
        let request = Request::get("/sleep.php").header("host", "a").body(Body::empty()).unwrap();
        php.clone().oneshot(request)
    };
    let running = [within(endless()).await.unwrap(), within(endless()).await.unwrap()];
    assert_eq!((php.stats().busy, php.stats().queued), (2, 0));
    let mut other = php.clone();
    let request = Request::get("/a").body(Body::empty()).unwrap();
    let refused = within(tower::Service::call(&mut other, request)).await.unwrap_err();
    assert_eq!(Error::find(&*refused).unwrap().kind(), Kind::Overloaded);
    drop(running);
    assert_eq!(php.stats().busy, 0, "the permit goes with the response");
    php.close();
    assert_eq!(Error::find(&*get(&php, "/a").await.unwrap_err()).unwrap().kind(), Kind::Overloaded);
    drop(dir);
}

#[tokio::test]
#[cfg_attr(not(peer_php_cgi), ignore = "apt-get install php-cgi")]
async fn php_cgi_runs_the_same_application() {
    let cgi = Path::new("/usr/bin/php-cgi");
    let dir = site();
    let php = builder(dir.path()).program(cgi).start().unwrap();
    assert_eq!(ok(&php, "/info.php/a").await, "200 /info.php /a");
    assert_eq!(ok(&php, "/session").await, "200 visit 1");
    within(php.reload()).await.unwrap();
    assert_eq!(ok(&php, "/a").await, "200 front /a");
    shut_down(php).await;
}

#[tokio::test]
async fn php_without_directory_program_or_user_fails_to_start() {
    let dir = site();
    let error = builder(&dir.path().join("none")).start().unwrap_err();
    assert!(error.to_string().contains("none/current"), "{error}");
    let error = builder(dir.path()).program("/no/such/php-fpm").start().unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    if rustix::process::geteuid().is_root() {
        let error = worker::php(dir.path()).program("/bin/true").start().unwrap_err();
        assert!(error.to_string().contains("PhpBuilder::user"), "{error}");
    }
}
