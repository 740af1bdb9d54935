//! Three tiers on three machines, and on one: the front of the example `three_tiers`, an application and its database, each in
//! a network namespace of its own.

#[path = "../../../examples/three_tiers/front.rs"]
#[allow(unreachable_pub, reason = "module of a program")]
mod front;
mod guests;

use std::{env, fs, net::SocketAddr, path::Path, process::Stdio};

use tokio::{net::TcpStream, process::Child, sync::oneshot, task::JoinHandle};

use super::{
    listening,
    machines::{Machine, Network},
};
use crate::{
    BoxError,
    tests::support::{exchange, statuses, within},
};

/// A running front.
struct Front {
    addr: SocketAddr,
    /// Where the application reaches its database.
    database: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), BoxError>>,
}

impl Front {
    /// Starts the example on this machine, and waits until it listens.
    async fn start(here: &Machine, app: SocketAddr, database: SocketAddr) -> Self {
        let (addr, listen) = (SocketAddr::from(([127, 0, 0, 1], 8080)), address(here, 6432));
        let options = front::Options {
            listen: addr.to_string(),
            apps: vec![app.to_string()],
            database_listen: Some(listen.to_string()),
            databases: vec![database.to_string()],
        };
        let (stop, stopped) = oneshot::channel();
        let signal = async { stopped.await.unwrap_or_default() };
        let task = tokio::spawn(front::run(options, signal));
        within(async {
            for addr in [addr, listen] {
                while TcpStream::connect(addr).await.is_err() {
                    assert!(!task.is_finished(), "it ended before it listened");
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
        Self { addr, database: listen, stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        within(self.task).await.unwrap().unwrap();
    }
}

fn address(machine: &Machine, port: u16) -> SocketAddr {
    SocketAddr::new(machine.ip.parse().unwrap(), port)
}

/// Counts the visits of each path in Redis, over a connection for each request.
const APPLICATION: &str = r"
import os, socket

def count(path):
    with socket.create_connection((os.environ['REDIS_HOST'], int(os.environ['REDIS_PORT'])), 10) as s:
        s.sendall(b'INCR ' + path.encode() + b'\r\n')
        return int(s.makefile('rb').readline().strip().lstrip(b':'))

def application(environ, start_response):
    try:
        visit = b'visit %d' % count(environ['PATH_INFO'])
        status = '200 OK'
    except (OSError, ValueError):
        # gunicorn closes the connection after an OSError, without a response.
        visit, status = b'no database', '503 Service Unavailable'
    body = visit + b' of ' + environ['HTTP_X_FORWARDED_FOR'].encode()
    start_response(status, [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))])
    return [body]
";

/// Ends a program in order, with what it has started.
async fn stop(mut child: Child) {
    if let Some(pid) = child.id() {
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    within(child.wait()).await.unwrap();
}

/// Starts the tiers, and asks the front twice. Runs where the front is.
async fn visit(here: &Machine, app: &Machine, database: &Machine, dir: &Path) -> Vec<String> {
    let (app_addr, redis_addr) = (address(app, 8000), address(database, 8001));
    let mut redis = database.command("redis-server");
    redis.args(["--bind", &database.ip, "--port", &redis_addr.port().to_string(), "--save", ""]);
    redis.args(["--protected-mode", "no", "--dir"]).arg(dir).stdout(Stdio::null());
    let mut redis = redis.spawn().expect("redis-server is installed");
    listening(&mut redis, async || TcpStream::connect(redis_addr).await.is_ok()).await;
    // The same code wherever the application and its database are.
    let front = Front::start(here, app_addr, redis_addr).await;

    let python =
        env::var("VESTIBULE_PYTHON").expect("VESTIBULE_PYTHON names a Python with gunicorn");
    let mut gunicorn = app.command(&python);
    let bind = app_addr.to_string();
    gunicorn.args(["-m", "gunicorn", "--bind", &bind, "--log-level", "warning", "app"]);
    gunicorn.current_dir(dir).env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
    gunicorn.env("REDIS_HOST", front.database.ip().to_string());
    gunicorn.env("REDIS_PORT", front.database.port().to_string());
    let mut gunicorn = gunicorn.spawn().expect("Python has gunicorn");
    listening(&mut gunicorn, async || TcpStream::connect(app_addr).await.is_ok()).await;

    let mut answers = Vec::new();
    for _ in 0..2 {
        let get = "GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = exchange(front.addr, get).await;
        assert_eq!(statuses(&answer), [200], "{answer}");
        answers.push(answer.rsplit_once("\r\n\r\n").unwrap().1.to_owned());
    }
    // Without the database the application fails, and the front stays.
    stop(redis).await;
    let get = "GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&exchange(front.addr, get).await), [503]);
    // Without the application it is the front that answers.
    stop(gunicorn).await;
    assert_eq!(statuses(&exchange(front.addr, get).await), [502]);
    front.stop().await;
    answers
}

#[test]
#[cfg_attr(
    not(all(peer_root, peer_ip, peer_redis, peer_django)),
    ignore = "it needs root, ip, redis-server and gunicorn"
)]
fn front_serves_tiers_on_one_machine_and_on_three_with_the_same_code() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("app.py"), APPLICATION).unwrap();
    let (_network, [front, app, database]) = Network::new("t");
    for is_apart in [true, false] {
        let answers = std::thread::scope(|scope| {
            let in_front = scope.spawn(|| {
                let local = front.loopback();
                let (here, app, database) =
                    if is_apart { (&front, &app, &database) } else { (&local, &local, &local) };
                front.run(visit(here, app, database, dir.path()))
            });
            in_front.join().unwrap()
        });
        assert_eq!(answers, ["visit 1 of 127.0.0.1", "visit 2 of 127.0.0.1"], "{is_apart}");
    }
}
