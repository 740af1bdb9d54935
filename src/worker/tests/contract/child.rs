//! The application of a worker process: this test program, started with the name of one test.

use std::{
    cell::{Cell, RefCell},
    env,
    future::pending,
    os::unix::process::CommandExt,
    path::Path,
    process::{self, Stdio},
    rc::Rc,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    signal::unix::{SignalKind, signal},
    sync::{Mutex, oneshot},
    task::LocalSet,
};

use crate::worker::Command;

const CONTROL: &str = "VESTIBULE_TEST_CONTROL";

/// The command of a worker that is controlled through the socket at `control`.
pub(super) fn command(control: &Path) -> Command {
    Command::new("/proc/self/exe")
        .args(["--exact", "worker::tests::contract::child::child_follows_its_script"])
        .args(["--nocapture", "--quiet", "{socket}"])
        .env(CONTROL, control)
}

/// Does nothing unless this process is a worker.
#[test]
fn child_follows_its_script() {
    let Some(control) = env::var_os(CONTROL) else { return };
    let socket = env::args().next_back().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, run(Path::new(&control), Path::new(&socket)));
}

/// The connection to the test.
struct Control {
    writer: Mutex<OwnedWriteHalf>,
    /// The names that are waited for.
    waiting: RefCell<Vec<(String, oneshot::Sender<()>)>>,
    active: Cell<usize>,
    is_ending: Cell<bool>,
    /// Requests for `*` or `/health`.
    checks: Cell<usize>,
    /// Whether it does not answer the second request for `*` and all later ones.
    hangs: bool,
    /// Whether it fails all further ones.
    is_sick: Cell<bool>,
}

impl Control {
    async fn say(&self, what: &str, name: &str) {
        let line = format!("{what} {name}\n");
        let _ = self.writer.lock().await.write_all(line.as_bytes()).await; // the test may have ended
    }

    async fn wait(&self, name: &str) {
        let (sender, released) = oneshot::channel();
        self.waiting.borrow_mut().push((name.to_owned(), sender));
        self.say("wait", name).await;
        let _ = released.await;
    }

    async fn listen(&self, reader: BufReader<OwnedReadHalf>) {
        let mut lines = reader.lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let name = line.strip_prefix("go ").unwrap();
            let mut waiting = self.waiting.borrow_mut();
            let at = waiting.iter().position(|(n, _)| n == name).unwrap();
            let _ = waiting.swap_remove(at).1.send(());
        }
    }

    /// Ends the process when it was asked to and runs no request.
    fn end_if_idle(&self) {
        if self.is_ending.get() && self.active.get() == 0 {
            process::exit(0);
        }
    }
}

async fn run(control: &Path, socket: &Path) {
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    let (reader, writer) = UnixStream::connect(control).await.unwrap().into_split();
    let mut reader = BufReader::new(reader);
    let mut order = String::new();
    reader.read_line(&mut order).await.unwrap();
    let (instance, build) = order.trim_end().split_once(' ').unwrap();
    let control = Rc::new(Control {
        writer: Mutex::new(writer),
        waiting: RefCell::default(),
        active: Cell::new(0),
        is_ending: Cell::new(false),
        checks: Cell::new(0),
        hangs: build == "Hang",
        is_sick: Cell::new(false),
    });
    let shared = control.clone();
    tokio::task::spawn_local(async move { shared.listen(reader).await });
    let shared = control.clone();
    tokio::task::spawn_local(async move {
        terminated.recv().await;
        shared.is_ending.set(true);
        shared.end_if_idle();
    });
    match build {
        "Fail" => {
            eprintln!("no database");
            process::exit(1);
        }
        "Panic" => process::exit(101),
        "Hold" => control.wait("/build").await,
        _ => {}
    }
    let listener = UnixListener::bind(socket).unwrap();
    eprintln!("printed outside of requests");
    loop {
        let stream = listener.accept().await.unwrap().0;
        let (control, instance) = (control.clone(), instance.to_owned());
        tokio::task::spawn_local(async move {
            let _ = serve(stream, &control, &instance).await;
        });
    }
}

/// Serves a connection until it is closed.
async fn serve(mut stream: UnixStream, control: &Control, instance: &str) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap();
        if path == "*" {
            if control.hangs && control.checks.replace(control.checks.get() + 1) > 0 {
                control.say("entered", path).await;
                return pending().await;
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
            continue;
        }
        control.active.set(control.active.get() + 1);
        if path.starts_with("/memory") {
            Box::leak(vec![1u8; 64 << 20].into_boxed_slice());
        }
        let entered = match path {
            "/fork-hold" => format!("{path} {} {}", process::id(), fork(&stream)),
            "/hold-pid" => format!("{path} {}", process::id()),
            _ => path.to_owned(),
        };
        control.say("entered", &entered).await;
        let result = answer(&mut stream, control, path, instance).await;
        control.active.set(control.active.get() - 1);
        control.end_if_idle();
        if !result? {
            return Ok(());
        }
    }
}

/// Starts a child in its own process group that inherits the connection; returns its id.
fn fork(stream: &UnixStream) -> u32 {
    rustix::io::fcntl_setfd(stream, rustix::io::FdFlags::empty()).unwrap();
    let mut sleep = process::Command::new("sleep");
    sleep.arg("1000").process_group(0);
    sleep.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sleep.spawn().unwrap().id()
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";

/// Answers a request; returns whether the connection can be reused.
async fn answer(
    stream: &mut UnixStream,
    control: &Control,
    path: &str,
    instance: &str,
) -> std::io::Result<bool> {
    let body = match path {
        "/panic" => process::exit(101),
        "/garbage" => {
            stream.write_all(b"220 smtp.example.com ESMTP\r\n\r\n").await?;
            return Ok(true);
        }
        "/twice" => {
            let first = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst";
            stream.write_all(format!("{first}{first}").as_bytes()).await?;
            return Ok(true);
        }
        "/health"
            if control.checks.replace(control.checks.get() + 1) < 2 || control.is_sick.get() =>
        {
            stream.write_all(b"HTTP/1.1 503 Not Yet\r\nContent-Length: 0\r\n\r\n").await?;
            return Ok(true);
        }
        "/print" => {
            eprintln!("printed in a request");
            control.wait(path).await;
            path.to_owned()
        }
        "/sick" => {
            control.is_sick.set(true);
            path.to_owned()
        }
        "/cwd" => env::current_dir().unwrap().display().to_string(),
        _ if path.starts_with("/stream") || ["/endless", "/break"].contains(&path) => {
            stream.write_all(CHUNKED.as_bytes()).await?;
            return stream_rest(stream, control, path).await;
        }
        _ if path.starts_with("/hold") || ["/fork-hold", "/memory-hold"].contains(&path) => {
            control.wait(path).await;
            format!("{path} {instance}")
        }
        _ => format!("{path} {instance}"),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    Ok(true)
}

async fn stream_rest(
    stream: &mut UnixStream,
    control: &Control,
    path: &str,
) -> std::io::Result<bool> {
    match path {
        "/stream-panic" => process::exit(101),
        "/endless" => drop(stream.read_u8().await), // until the client leaves
        "/break" => control.wait(path).await,
        "/stream-hold" => {
            control.wait(path).await;
            stream.write_all(b"0\r\n\r\n").await?;
            return Ok(true);
        }
        _ => {
            control.wait(path).await;
            stream.write_all(b"3\r\ndef\r\n0\r\nx-sum: 6\r\n\r\n").await?;
            return Ok(true);
        }
    }
    Ok(false)
}
