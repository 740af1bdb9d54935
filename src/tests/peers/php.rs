//! Tests with PHP that php-fpm runs on a Unix socket.

use std::{fs, path::PathBuf};

use http::{HeaderValue, Request};
use http_body_util::BodyExt;
use tokio::{
    net::UnixStream,
    process::{Child, Command},
};
use tower::{ServiceBuilder, ServiceExt};

use super::{listening, noise, program, sum};
use crate::{
    Body,
    conn::testing::Lines,
    layer::RequestBufferLayer,
    semantics::cgi::Scripts,
    tests::support::{exchange, start, statuses, within},
    upstream::{FastCgi, PoolConfig},
};

const SCRIPTS: [(&str, &str); 11] = [
    (
        "late.php",
        "<?php echo 'early'; fastcgi_finish_request(); echo str_repeat('late', 5000); flush();",
    ),
    ("hello.php", "<?php echo 'hello ', $_SERVER['REMOTE_ADDR'];"),
    (
        "echo.php",
        "<?php $in = file_get_contents('php://input'); header('Content-Type: application/x');\
         header('X-Sum: ' . hash('fnv1a64', $in)); header('X-Length: ' . $_SERVER['CONTENT_LENGTH']);\
         header('Content-Length: ' . strlen($in)); echo $in;",
    ),
    ("post.php", "<?php echo json_encode($_POST), $_SERVER['CONTENT_LENGTH'];"),
    ("warn.php", "<?php trigger_error('it is getting late', E_USER_WARNING); echo 'done';"),
    ("gone.php", "<?php http_response_code(404); echo 'no such page';"),
    ("redirect.php", "<?php header('Location: /hello.php');"),
    ("nothing.php", "<?php"),
    (
        "info.php",
        "<?php echo $_SERVER['SCRIPT_NAME'], ' ', $_SERVER['PATH_INFO'] ?? '-', ' ',\
         $_SERVER['REQUEST_URI'], ' ', isset($_SERVER['HTTP_PROXY']) ? 'poxed' : 'sound';",
    ),
    (
        "sleep.php",
        "<?php $to = $_SERVER['PID_FILE']; file_put_contents(\"$to.new\", getmypid());\
         rename(\"$to.new\", $to); sleep(60);",
    ),
    (
        "params.php",
        "<?php foreach (['A', 'B', 'C'] as $n) echo strlen($_SERVER[$n]), md5($_SERVER[$n]), ' ';",
    ),
];

/// A running php-fpm in its own directory.
struct Php {
    child: Child,
    dir: tempfile::TempDir,
}

impl Php {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        fs::create_dir(dir.path().join("root")).unwrap();
        for (name, code) in SCRIPTS {
            fs::write(dir.path().join("root").join(name), code).unwrap();
        }
        fs::write(dir.path().join("root/x.jpg"), "<?php echo 'run';").unwrap();
        let is_root = rustix::process::geteuid().is_root();
        let user = if is_root { "user = root\ngroup = root\n" } else { "" };
        let conf = format!(
            "[global]\nerror_log = {at}/log\ndaemonize = no\n\
             [www]\n{user}listen = {at}/sock\npm = static\npm.max_children = 2\n\
             php_admin_flag[log_errors] = on\nphp_admin_flag[html_errors] = off\n\
             php_admin_flag[display_errors] = off\nphp_admin_value[post_max_size] = 64M\n"
        );
        fs::write(dir.path().join("conf"), conf).unwrap();
        let mut command = program(fpm().to_str().unwrap());
        command.arg("-n").arg("-F").arg("-y").arg(dir.path().join("conf"));
        if is_root {
            command.arg("-R");
        }
        let mut child = command.spawn().expect("php-fpm is installed");
        let socket = dir.path().join("sock");
        listening(&mut child, async || UnixStream::connect(&socket).await.is_ok()).await;
        Self { child, dir }
    }

    /// Returns the application with a pool of this many idle connections.
    fn service(&self, keep_idle: usize) -> FastCgi {
        let pid_file = self.pid_file().display().to_string();
        let scripts = Scripts::new(self.dir.path().join("root").to_str().unwrap())
            .variable("PID_FILE", pid_file)
            .variable("A", "a".repeat(30_000))
            .variable("B", "b".repeat(30_000))
            .variable("C", "c".repeat(30_000));
        let address = format!("unix:{}/sock", self.dir.path().display());
        FastCgi::builder(address.parse().unwrap(), scripts)
            .pool(PoolConfig::new().keep_idle(keep_idle))
            .build()
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.path().join("pid")
    }

    /// Stops php-fpm with its workers, which would remain if it were killed.
    async fn stop(mut self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(within(Command::new("kill").arg(pid).status()).await.unwrap().success());
        within(self.child.wait()).await.unwrap();
    }
}

/// Returns the path of php-fpm, whose name contains its version.
fn fpm() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut files = dirs.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let is_fpm = |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with("php-fpm");
    files.find(is_fpm).expect("php-fpm is installed").path()
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n")
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn php_answers_over_new_and_over_idle_connections() {
    let php = Php::start().await;
    for keep_idle in [0, 1] {
        let service = php.service(keep_idle);
        let front = start(service.clone()).await;
        let requests = [
            get("/hello.php", ""),
            get("/hello.php", "").replace("GET", "HEAD"),
            get("/gone.php", ""),
            get("/redirect.php", ""),
            get("/nothing.php", ""),
            get("/info.php/a/b%20c?d=e", "Proxy: evil\r\n"),
            get("/x.jpg/y.php", ""),
            get("/hello.php", "Connection: close\r\n"),
        ];
        let answer = exchange(front.addr, requests.concat()).await;
        assert_eq!(statuses(&answer), [200, 200, 404, 302, 200, 200, 404, 200], "{answer}");
        assert_eq!(answer.matches("hello 127.0.0.1").count(), 2, "not in the answer to HEAD");
        assert!(answer.contains("no such page") && answer.contains("location: /hello.php\r\n"));
        assert!(answer.contains("/info.php /a/b c /info.php/a/b%20c?d=e sound"), "{answer}");
        assert!(!answer.contains("run"), "a picture is no script");
        assert_eq!(service.idle_connections(), keep_idle);
        front.stop().await;
    }
    php.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn php_reads_forms_and_large_uploads() {
    let php = Php::start().await;
    let front = start(php.service(1)).await;
    let body = noise(8 << 20);
    let mut request = format!(
        "POST /echo.php HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    let answer = upload(front.addr, &request).await;
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&answer[..end]);
    assert!(head.contains(&format!("x-sum: {:016x}\r\n", sum(&body))), "{head}");
    assert!(head.contains(&format!("x-length: {}\r\n", body.len())), "{head}");
    assert!(answer[end..] == body, "it comes back as it was");
    front.stop().await;

    let buffered = ServiceBuilder::new().layer(RequestBufferLayer::new()).service(php.service(0));
    let front = start(buffered).await;
    let form = "Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\
                Connection: close\r\n";
    let post = get("/post.php", form).replace("GET", "POST") + "7\r\na=b&c=d\r\n0\r\n\r\n";
    let answer = exchange(front.addr, post).await;
    assert!(answer.ends_with(r#"{"a":"b","c":"d"}7"#), "{answer}");
    front.stop().await;
    php.stop().await;
}

/// Sends and reads at the same time, since the response may begin before the request has ended.
async fn upload(addr: std::net::SocketAddr, request: &[u8]) -> Vec<u8> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let client = tokio::net::TcpStream::connect(addr).await.unwrap();
    let (mut reader, mut writer) = client.into_split();
    let mut answer = Vec::new();
    let both = async { tokio::join!(writer.write_all(request), reader.read_to_end(&mut answer)) };
    let (sent, read) = within(both).await;
    sent.unwrap();
    read.unwrap();
    answer
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn php_warning_reaches_the_log_with_its_request() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.subscriber());
    let php = Php::start().await;
    let front = start(php.service(0)).await;
    let answer = exchange(front.addr, get("/warn.php", "Connection: close\r\n")).await;
    assert!(answer.ends_with("done"), "{answer}");
    let lines = lines.of("vestibule::fastcgi");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("it is getting late") && lines[0].contains(r#"path="/warn.php""#));
    front.stop().await;
    php.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn killed_php_worker_fails_its_request_and_no_other() {
    let php = Php::start().await;
    for keep_idle in [0, 1] {
        let front = start(php.service(keep_idle)).await;
        let hello = get("/hello.php", "Connection: close\r\n");
        assert_eq!(statuses(&exchange(front.addr, &hello).await), [200]);
        let killed = tokio::spawn(exchange(front.addr, get("/sleep.php", "Connection: close\r\n")));
        within(async {
            while !php.pid_file().exists() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let pid = fs::read_to_string(php.pid_file()).unwrap();
        fs::remove_file(php.pid_file()).unwrap();
        let kill = Command::new("kill").args(["-9", &pid]).status();
        assert!(within(kill).await.unwrap().success());
        assert_eq!(statuses(&killed.await.unwrap()), [502]);
        assert_eq!(statuses(&exchange(front.addr, &hello).await), [200]);
        front.stop().await;
    }
    php.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn php_output_after_its_response_reaches_no_other_request() {
    let php = Php::start().await;
    let service = php.service(1);
    for _ in 0..50 {
        for (path, expected) in [("/late.php", "early"), ("/gone.php", "no such page")] {
            let request = Request::get(path).header("host", "a").body(Body::empty()).unwrap();
            let response = within(service.clone().oneshot(request)).await.unwrap();
            let body = within(response.into_body().collect()).await.unwrap().to_bytes();
            assert_eq!(body, expected);
        }
    }
    php.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn php_reads_parameters_beyond_one_record() {
    let php = Php::start().await;
    let mut request = Request::get("/params.php").body(Body::empty()).unwrap();
    request.headers_mut().insert("host", HeaderValue::from_static("a"));
    let response = within(php.service(0).oneshot(request)).await.unwrap();
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body);
    let lengths: Vec<_> = text.split_whitespace().map(|word| &word[..5]).collect();
    assert_eq!(lengths, ["30000"; 3], "{text}");
    php.stop().await;
}
