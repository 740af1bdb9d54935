//! Three tiers on three machines, and on one: the front, an application under gunicorn and its Redis, each
//! in a network namespace of its own.

use std::{env, fs, fs::File, os::fd::AsFd, path::Path, process::Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};
use tower::ServiceBuilder;

use super::{listening, program};
use crate::{
    layer::{RequestBufferLayer, RescueLayer},
    tests::support::{exchange, start, statuses, within},
    upstream::Upstream,
};

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

/// A machine: a network namespace, or this one.
struct Machine {
    namespace: Option<String>,
    ip: String,
}

impl Machine {
    fn here() -> Self {
        Self { namespace: None, ip: "127.0.0.1".into() }
    }

    /// A command that runs there.
    fn command(&self, name: &str) -> Command {
        match &self.namespace {
            None => program(name),
            Some(namespace) => {
                let mut command = program("ip");
                command.args(["netns", "exec", namespace, name]);
                command
            }
        }
    }
}

/// Namespaces, which are deleted with this.
struct Network(Vec<String>);

impl Network {
    /// Three machines of one network: the first has the bridge.
    fn new() -> (Self, [Machine; 3]) {
        let names: Vec<_> =
            ["f", "a", "d"].iter().map(|n| format!("vt{n}{}", std::process::id())).collect();
        let network = Self(names);
        let [front, others @ ..] = &network.0[..] else { unreachable!("there are three") };
        for name in &network.0 {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        ip(&["-n", front, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", front, "addr", "add", "10.77.0.1/24", "dev", "br0"]);
        ip(&["-n", front, "link", "set", "br0", "up"]);
        for (n, name) in (2..).zip(others) {
            let (port, address) = (format!("p{n}"), format!("10.77.0.{n}/24"));
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", name];
            ip(&[&["-n", front, "link", "add", &port], &peer[..]].concat());
            ip(&["-n", front, "link", "set", &port, "master", "br0", "up"]);
            ip(&["-n", name, "addr", "add", &address, "dev", "eth0"]);
            ip(&["-n", name, "link", "set", "eth0", "up"]);
        }
        let machine = |n: usize| Machine {
            namespace: Some(network.0[n].clone()),
            ip: format!("10.77.0.{}", n + 1),
        };
        let machines = [machine(0), machine(1), machine(2)];
        (network, machines)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = std::process::Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(args: &[&str]) {
    let status = std::process::Command::new("ip").args(args).status().expect("ip is installed");
    assert!(status.success(), "ip {}", args.join(" "));
}

/// Ends a program in order, with what it has started.
async fn stop(mut child: Child) {
    if let Some(pid) = child.id() {
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    within(child.wait()).await.unwrap();
}

/// Starts the two other tiers, and asks the front twice. Runs where the front is.
async fn visit(app: &Machine, database: &Machine, port: u16, dir: &Path) -> Vec<String> {
    let mut redis = database.command("redis-server");
    redis.args(["--bind", &database.ip, "--port", &(port + 1).to_string(), "--save", ""]);
    redis.args(["--protected-mode", "no", "--dir"]).arg(dir).stdout(Stdio::null());
    let mut redis = redis.spawn().expect("redis-server is installed");
    let database_addr = format!("{}:{}", database.ip, port + 1);
    listening(&mut redis, async || TcpStream::connect(&database_addr).await.is_ok()).await;

    let python =
        env::var("VESTIBULE_PYTHON").expect("VESTIBULE_PYTHON names a Python with gunicorn");
    let address = format!("{}:{port}", app.ip);
    let mut gunicorn = app.command(&python);
    gunicorn.args(["-m", "gunicorn", "--bind", &address, "--log-level", "warning", "app"]);
    gunicorn.current_dir(dir).env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
    gunicorn.env("REDIS_HOST", &database.ip).env("REDIS_PORT", (port + 1).to_string());
    let mut gunicorn = gunicorn.spawn().expect("Python has gunicorn");
    listening(&mut gunicorn, async || TcpStream::connect(&address).await.is_ok()).await;

    // The same code wherever the application is.
    let site = ServiceBuilder::new()
        .layer(RescueLayer::new())
        .layer(RequestBufferLayer::new())
        .service(Upstream::new([&address]).unwrap());
    let front = start(site).await;
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
    let (_network, [front, app, database]) = Network::new();
    let inside = front.namespace.as_ref().unwrap();
    let namespace = File::open(format!("/run/netns/{inside}")).unwrap();
    for is_apart in [true, false] {
        let answers = std::thread::scope(|scope| {
            let in_front = scope.spawn(|| {
                // The thread alone moves, and its sockets are made there.
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let here = || Machine { namespace: Some(inside.clone()), ..Machine::here() };
                let local = here();
                let (app, database) = if is_apart { (&app, &database) } else { (&local, &local) };
                runtime.block_on(visit(app, database, 8000, dir.path()))
            });
            in_front.join().unwrap()
        });
        assert_eq!(answers, ["visit 1 of 127.0.0.1", "visit 2 of 127.0.0.1"], "{is_apart}");
    }
}
