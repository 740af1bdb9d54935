//! Worker processes that are a server in Python, of the standard library alone, under load.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{sync::mpsc, task::JoinSet};
use tower::ServiceExt;

use crate::{
    Body, BoxError, Request,
    error::{Error, Kind},
    tests::support::{TIMEOUT, within},
    worker::{self, Processes, ProcessesBuilder, WorkerProcess},
};

/// A server with threads on the inherited socket. It answers with the id of its process.
const SERVER: &str = "
import http.server, os, socket

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    wbufsize = -1 # head and body in one write, so that no kill comes between them

    def do_GET(self):
        self.rfile.read(int(self.headers.get('Content-Length', 0)))
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def address_string(self):
        return 'front'

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(('', 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
server.serve_forever()
";

fn start(options: impl FnOnce(ProcessesBuilder) -> ProcessesBuilder) -> Processes {
    let python = env::var("VESTIBULE_PYTHON").expect("VESTIBULE_PYTHON names a Python");
    let command = worker::Command::new(python).args(["-c", SERVER]);
    options(worker::process(command).workers(2)).start().unwrap()
}

/// Requests without end, until it is dropped.
struct Load {
    is_on: Arc<AtomicBool>,
    tasks: JoinSet<(usize, Vec<BoxError>)>,
}

impl Load {
    fn start(pool: &Processes, method: &'static str) -> Self {
        let is_on = Arc::new(AtomicBool::new(true));
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let (pool, is_on) = (pool.clone(), is_on.clone());
            tasks.spawn(async move {
                let (mut served, mut errors) = (0, Vec::new());
                while is_on.load(Ordering::Relaxed) {
                    let request = Request::builder().method(method).uri("/");
                    let request = request.body(Body::empty()).unwrap();
                    match pool.clone().oneshot(request).await {
                        Ok(response) => served += usize::from(response.status() == 200),
                        Err(error) => errors.push(error),
                    }
                }
                (served, errors)
            });
        }
        Self { is_on, tasks }
    }

    async fn end(self) -> (usize, Vec<BoxError>) {
        self.is_on.store(false, Ordering::Relaxed);
        let ended = within(self.tasks.join_all()).await;
        ended.into_iter().fold((0, Vec::new()), |(served, mut all), (n, errors)| {
            all.extend(errors);
            (served + n, all)
        })
    }
}

#[tokio::test]
#[cfg_attr(not(peer_django), ignore = "VESTIBULE_PYTHON=a Python")]
async fn workers_are_recycled_every_100_requests_without_a_failed_one() {
    for workers in [2, 4] {
        let pool = start(|b| b.workers(workers).recycle_after(100, 0));
        let load = Load::start(&pool, "POST");
        within(async {
            while pool.stats().recycled < 6 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let (served, errors) = load.end().await;
        assert!(errors.is_empty() && served >= 600, "{served} {errors:?}");
        assert_eq!(pool.stats().panics, 0);
        within(pool.shutdown(TIMEOUT)).await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(peer_django), ignore = "VESTIBULE_PYTHON=a Python")]
async fn killed_workers_fail_no_request_that_may_be_sent_again() {
    const KILLS: usize = 4;
    for method in ["GET", "POST"] {
        let (sender, mut ready) = mpsc::unbounded_channel();
        let on_ready = move |worker: WorkerProcess| {
            let _ = sender.send(worker.pid); // the test may be over
        };
        let pool = start(|b| b.on_ready(on_ready));
        let mut victim = within(ready.recv()).await.unwrap();
        within(ready.recv()).await.unwrap();
        let load = Load::start(&pool, method);
        for _ in 0..KILLS {
            let served = pool.stats().served;
            within(async {
                while pool.stats().served < served + 50 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            kill_process(Pid::from_raw(victim as i32).unwrap(), Signal::KILL).unwrap();
            victim = within(ready.recv()).await.unwrap();
        }
        let (served, errors) = load.end().await;
        // A kill takes at most the request that the worker has received.
        let most = if method == "GET" { 0 } else { KILLS };
        assert!(errors.len() <= most && served >= 50 * KILLS, "{method}: {served} {errors:?}");
        let is_bad_gateway = |error: &BoxError| Error::kind_of(&**error) == Kind::BadGateway;
        assert!(errors.iter().all(is_bad_gateway), "{errors:?}");
        within(pool.shutdown(TIMEOUT)).await.unwrap();
    }
}
