//! Tests of directories behind a router and a server, with requests that no browser sends.

use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

use http::StatusCode;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};
use tower::service_fn;

use super::support::{Running, exchange, read_all, read_until, start, statuses};
use crate::{Body, BoxError, Response, Router, files};

/// Creates a directory with these files. The content of each is its path.
fn directory(paths: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for path in paths {
        let file = directory.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, format!("this is {path}")).unwrap();
    }
    directory
}

/// Returns the whole response to a GET.
async fn get(server: &Running, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    exchange(server.addr, request).await
}

#[tokio::test]
async fn f2_path_refused_in_one_spelling_is_served_in_none() {
    let directory = directory(&["public/page", "admin/secret"]);
    let refuse = service_fn(async |_| {
        let mut response = Response::new(Body::from("refused"));
        *response.status_mut() = StatusCode::FORBIDDEN;
        Ok::<_, BoxError>(response)
    });
    // One router allows the named path, the other all except the named path.
    let dir = files::dir(directory.path());
    let named = Router::new().prefix("/public", dir.clone()).prefix("/admin", refuse);
    let others = Router::new().prefix("/admin", refuse).fallback(dir);
    for site in [named, others] {
        let server = start(site).await;
        for (target, want) in [
            ("/public/page", 200),
            ("/%70ublic/p%61ge", 200),
            ("/public/..%2fadmin/secret", 400),
            ("/public/..%2Fadmin%2Fsecret", 400),
            ("/public/../admin/secret", 400),
            ("/public/%2e%2e/admin/secret", 400),
            ("/public/%2e%2e%2fadmin/secret", 400),
            ("/public/%252e%252e/admin/secret", 400),
            ("/public/..%252fadmin/secret", 400),
            ("/public/..%5cadmin/secret", 400),
            ("/public/..\\admin/secret", 400),
            ("/public/..;/admin/secret", 400),
            ("/public%2f..%2fadmin/secret", 400),
            ("/./admin/secret", 400),
            ("/admin/secret", 403),
            ("/admin", 403),
            ("/admin/", 403),
            ("/%61dmin/secret", 403),
            ("/%61%64%6d%69%6e/secret", 403),
            ("/admin//secret", 403),
            ("http://a/admin/secret", 403),
            ("/%2561dmin/secret", 404),
            ("//admin/secret", 404),
            ("/ADMIN/secret", 404),
            ("/admin;x/secret", 404),
        ] {
            let answer = get(&server, target).await;
            assert_eq!(statuses(&answer), [want], "{target}: {answer}");
            assert!(!answer.contains("this is admin"), "{target}: {answer}");
        }
        // An escaped slash is a character of a segment, so neither router finds the file.
        let answer = get(&server, "/admin%2fsecret").await;
        assert!(matches!(statuses(&answer)[..], [400 | 404]), "{answer}");
        server.stop().await;
    }
}

#[tokio::test]
async fn f3_no_redirect_leads_to_another_host_from_where_a_directory_is_mounted() {
    let directory = directory(&["dir/x", "evil.com/dir/x"]);
    let dir = || files::dir(directory.path());
    let site = Router::new()
        .nest("/files", dir())
        .nest("/nested", Router::new().nest("/deep", dir()))
        .nest("/", dir());
    let server = start(site).await;
    for (target, want) in [
        ("/dir", "./dir/"),
        ("/files/dir", "./dir/"),
        ("/files/evil.com/dir?x=//evil.com", "./dir/?x=//evil.com"),
        ("/nested/deep/evil.com", "./evil.com/"),
        ("/files/%65vil.com", "./%65vil.com/"),
        ("http://a/files/dir", "./dir/"),
        ("/files", "./files/"),
        ("/files?x", "./files/?x"),
        ("/f%69les", "./f%69les/"),
        ("/nested/deep", "./deep/"),
        ("//evil.com/dir", ""),
        ("//evil.com", ""),
        ("///evil.com/dir", ""),
        ("/files//evil.com/dir", ""),
        ("/files//evil.com", ""),
        ("/files///evil.com/dir", ""),
        ("/files/%2fevil.com/dir", ""),
        ("/files/%5cevil.com/dir", ""),
        ("/files/\\evil.com/dir", ""),
        ("/files%2f%2fevil.com/dir", ""),
        ("/files/..//evil.com/dir", ""),
        ("/nested/deep//evil.com/dir", ""),
        ("/nested//deep/evil.com", ""),
    ] {
        let answer = get(&server, target).await;
        let location = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("location").then(|| value.trim())
        });
        assert_eq!(location.unwrap_or_default(), want, "{target}: {answer}");
        let redirects = statuses(&answer) == [308];
        assert_eq!(redirects, !want.is_empty(), "{target}: {answer}");
    }
    server.stop().await;
}

const MIB: u64 = 1 << 20;

fn cut(path: &Path, len: u64) {
    File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[tokio::test]
async fn file_that_shrinks_while_it_is_sent_ends_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let server = start(files::dir(directory.path())).await;
    for asked in ["", "Range: bytes=10-\r\n"] {
        // More than all buffers between the server and the client.
        fs::write(&path, "").unwrap();
        cut(&path, 64 * MIB);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1 << 16).unwrap();
        let mut client = socket.connect(server.addr).await.unwrap();
        let get = format!("GET /file HTTP/1.1\r\nHost: a\r\n{asked}\r\n");
        client.write_all(get.as_bytes()).await.unwrap();
        let head = read_until(&mut client, "\r\n\r\n").await.to_ascii_lowercase();
        let announced = 64 * MIB - if asked.is_empty() { 0 } else { 10 };
        assert!(head.contains(&format!("\r\ncontent-length: {announced}\r\n")), "{head}");
        cut(&path, 32 * MIB);
        // The client sees the end of the connection.
        let got = read_all(&mut client).await.len() as u64;
        assert!(got <= 32 * MIB, "{asked:?}: padded to {got}");
    }
    server.stop().await;
}

#[tokio::test]
async fn file_that_shrank_after_its_lookup_ends_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, vec![b'7'; 100_000]).unwrap();
    let site = files::DirBuilder::dir(directory.path())
        .watch(false)
        .revalidate(Duration::from_secs(3600))
        .build();
    let server = start(site).await;
    // From here on the file and its length are cached.
    let head = "HEAD /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&exchange(server.addr, head).await), [200]);
    cut(&path, 50_000);
    for (asked, announced, there) in [
        ("", 100_000, 50_000),
        ("Range: bytes=49990-50009\r\n", 20, 10),
        ("Range: bytes=60000-60009\r\n", 10, 0),
        ("Range: bytes=-5\r\n", 5, 0),
    ] {
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        let get = format!("GET /file HTTP/1.1\r\nHost: a\r\n{asked}\r\n");
        client.write_all(get.as_bytes()).await.unwrap();
        let answer = read_all(&mut client).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let length = format!("\r\ncontent-length: {announced}");
        assert!(head.to_ascii_lowercase().contains(&length), "{asked}: {head}");
        assert!(body.len() <= there, "{asked}: {} bytes", body.len());
        assert!(body.bytes().all(|b| b == b'7'), "{asked}: padded");
    }
    // The existing bytes are sent, and the connection stays open.
    let ranges = "GET /file HTTP/1.1\r\nHost: a\r\nRange: bytes=0-4\r\n\r\n\
                  GET /file HTTP/1.1\r\nHost: a\r\nRange: bytes=9-9\r\nConnection: close\r\n\r\n";
    let answer = exchange(server.addr, ranges).await;
    assert_eq!(statuses(&answer), [206, 206], "{answer}");
    assert!(answer.contains("\r\n\r\n77777HTTP") && answer.ends_with("\r\n\r\n7"), "{answer}");
    server.stop().await;
}
