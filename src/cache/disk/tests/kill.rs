//! Tests with a process that is killed while it stores responses.

use super::*;

/// The default number of rounds of the test below. `VESTIBULE_CACHE_KILLS` sets another one.
const KILLS: usize = 20;

const DIR: &str = "VESTIBULE_CACHE_DIR";

/// The bytes between two points at which the child may be killed.
const PIECE: usize = 8 << 10;

/// The path with this number. Half of the contents are so long that they are written while they are received.
fn path(i: usize) -> String {
    let len = if i.is_multiple_of(2) { 20_000 + (i * 7919) % 150_000 } else { (i * 7919) % 10_000 };
    format!("/{i}/{len}")
}

/// The durability of the child whose first path has this number: the default one in about every third round.
fn durability_of(first: usize) -> Durability {
    if first.is_multiple_of(3) { Durability::PowerLoss } else { Durability::Crash }
}

/// Answers in pieces, and prints a line for each.
async fn in_pieces(request: Request) -> Result<Response, BoxError> {
    let content = content(request.uri().path());
    let (sender, body) = Body::channel(None);
    tokio::spawn(async move {
        for piece in content.as_bytes().chunks(PIECE) {
            println!("piece");
            if sender.send(Bytes::copy_from_slice(piece)).is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        sender.finish(None);
    });
    let response = Response::builder().header("cache-control", "max-age=1000");
    Ok(response.body(body)?)
}

/// Returns the number of the path that the child invalidates after it has stored that with number `i`: one that it is writing,
/// or one that is being evicted. No path is invalidated twice.
fn invalidated_after(i: usize) -> Option<usize> {
    match i % 4 {
        0 => i.checked_sub(40),
        1 => i.checked_sub(2),
        _ => None,
    }
}

/// The child process of the test below: stores responses without end, invalidates some, and prints a line for each.
#[tokio::test]
async fn child_stores_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIR) else { return };
    let first: usize = std::env::var("VESTIBULE_CACHE_FIRST").unwrap().parse().unwrap();
    let builder = builder().disk_capacity(4 << 20).max_disk_object(400_000);
    let layer = builder.durability(durability_of(first)).open(directory).unwrap();
    for i in first.. {
        println!("begin {i}");
        let site = layer.layer(service_fn(in_pieces));
        let request = Request::get(format!("http://a{}", path(i))).body(Body::empty()).unwrap();
        let response = site.oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        if let Some(i) = invalidated_after(i) {
            layer.handle().delete(&Key::new("http", "a", &path(i), None).unwrap(), Purge::Hard);
            println!("invalidated {i}");
        }
    }
}

/// Starts the child, whose first path has this number.
fn start(first: usize, dir: &TempDir) -> std::process::Child {
    let name = "cache::disk::tests::kill::child_stores_until_it_is_killed";
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", name])
        .env(DIR, dir.path())
        .env("VESTIBULE_CACHE_FIRST", first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn directory_of_another_process_is_refused_until_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start(0, &dir);
    let mut out = io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(out.any(|line| line.unwrap().contains("begin ")), "the child has opened the directory");
    for _ in 0..2 {
        let error = builder().open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    builder().open(dir.path()).unwrap();
}

/// Starts the child and kills it after some lines of output. Returns the number of its last path, and those of the paths that
/// it has invalidated.
fn kill_after(lines: usize, first: usize, dir: &TempDir) -> (usize, Vec<usize>) {
    let mut child = start(first, dir);
    let out = io::BufReader::new(child.stdout.take().unwrap());
    let (mut last, mut invalidated, mut seen) = (first, Vec::new(), 0);
    for line in out.lines() {
        let line = line.unwrap();
        if let Some((_, number)) = line.split_once("begin ") {
            last = number.parse().unwrap();
        }
        if let Some((_, number)) = line.split_once("invalidated ") {
            invalidated.push(number.parse().unwrap());
        }
        seen += usize::from(line.contains("begin ") || line.contains("piece"));
        if seen == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    (last, invalidated)
}

#[tokio::test]
async fn objects_are_complete_and_invalidations_kept_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let kills = std::env::var("VESTIBULE_CACHE_KILLS").ok().and_then(|n| n.parse().ok());
    let (mut next, mut from_disk, mut torn) = (0, 0, 0);
    for round in 0..kills.unwrap_or(KILLS) {
        let (last, invalidated) = kill_after(1 + (round * 13) % 60, next, &dir);
        torn += usize::from(files(&dir, "content").len() != files(&dir, "head").len());
        let layer = open(&dir, || builder().durability(durability_of(next))).await;
        let (heads, contents) = (files(&dir, "head").len(), files(&dir, "content").len());
        assert_eq!((heads as u64, files(&dir, "new").len()), (layer.handle().stats().keys, 0));
        assert_eq!(heads, contents);
        let site = layer.layer(service_fn(|_: Request| async { Err::<Response, _>("not stored") }));
        for i in next.saturating_sub(50)..=last {
            let request = Request::get(format!("http://a{}", path(i))).body(Body::empty()).unwrap();
            let Ok(response) = site.clone().oneshot(request).await else { continue };
            assert!(!invalidated.contains(&i), "round {round}: {} is invalid", path(i));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body == content(&path(i)).as_bytes(), "round {round}: {}", path(i));
            from_disk += 1;
        }
        next = last + 1;
    }
    assert!(from_disk > 0, "no round found a stored object");
    assert!(torn > 0, "no round interrupted a write");
}
