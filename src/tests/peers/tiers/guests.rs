//! The guest book on three machines: the front, Django in a pool of worker processes, and PostgreSQL, to which the
//! front forwards its connections.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use tokio::sync::oneshot;
use tower::ServiceBuilder;

use super::{
    super::{
        django::token,
        machines::{Machine, Network},
        postgres::{Postgres, query},
    },
    Front, address,
};
use crate::{
    layer::{RequestBufferLayer, RescueLayer},
    serve::serve,
    tests::support::{TIMEOUT, within},
    worker,
};

/// The application on its machine: a server, and a pool with one worker process.
struct Application {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Application {
    /// Starts it, and waits until its worker is ready.
    async fn start(machine: Machine, address: SocketAddr, environment: Environment) -> Self {
        let (ready, is_ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            machine.clone().run(async {
                let mut site =
                    worker::wsgi("mysite.wsgi:application").python(python()).directory(project());
                for (name, value) in environment.variables() {
                    site = site.env(name, value);
                }
                let pool = site.workers(1).start().unwrap();
                let service = ServiceBuilder::new()
                    .layer(RescueLayer::new())
                    .layer(RequestBufferLayer::new())
                    .service(pool.clone());
                let signal = async { stopped.await.unwrap_or_default() };
                let server = serve(address.to_string(), service).shutdown(signal).bind().unwrap();
                ready.send(()).unwrap();
                server.await.unwrap();
                pool.shutdown(TIMEOUT).await.unwrap();
            });
        });
        within(is_ready).await.unwrap();
        Self { stop, thread }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        let ended = tokio::task::spawn_blocking(|| self.thread.join());
        within(ended).await.unwrap().unwrap();
    }
}

/// What the site is told: its database, and the folder of its other data.
#[derive(Clone)]
struct Environment {
    database: SocketAddr,
    data: PathBuf,
}

impl Environment {
    fn variables(&self) -> [(&'static str, String); 3] {
        let database = format!("postgresql://postgres@{}/postgres", self.database);
        [
            ("DATABASE_URL", database),
            ("DJANGO_DATA", self.data.display().to_string()),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ]
    }
}

fn python() -> String {
    env::var("VESTIBULE_PYTHON").expect("VESTIBULE_PYTHON names a Python with Django and psycopg")
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/django")
}

/// The machines and folders of a site.
struct Site<'a> {
    front: &'a Machine,
    app: &'a Machine,
    database: &'a Machine,
    cluster: &'a Path,
    data: &'a Path,
}

impl Site<'_> {
    async fn start_database(&self) -> Postgres {
        Postgres::start(self.database, self.cluster, address(self.database, 5432), &[]).await
    }

    /// Requests a page with curl, and returns its status and text.
    async fn browse(&self, front: SocketAddr, path: &str, form: Option<&str>) -> (u16, String) {
        let jar = self.data.join("jar");
        let mut curl = self.front.command("curl");
        curl.args(["--silent", "--location", "--max-time", "60", "--write-out", "\n%{http_code}"]);
        curl.arg("--cookie").arg(&jar).arg("--cookie-jar").arg(&jar);
        if let Some(form) = form {
            curl.args(["--data", form]);
        }
        curl.arg(format!("http://{front}{path}"));
        let output = within(curl.output()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (page, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), page.to_owned())
    }

    /// Signs the guest book as `name`. Runs where the front is.
    async fn visit(&self, name: &str) {
        let database = self.start_database().await;
        // The same code wherever the application is. The front is between it and its database, too.
        let app = address(self.app, 8000);
        let front = Front::start(self.front, app, address(self.database, 5432)).await;

        let environment = Environment { database: front.database, data: self.data.to_owned() };
        let mut migrate = self.app.command(&python());
        migrate.args(["manage.py", "migrate", "--verbosity", "0"]).current_dir(project());
        let output = within(migrate.envs(environment.variables()).output()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let application = Application::start(self.app.clone(), app, environment).await;

        let (status, page) = self.browse(front.addr, "/", None).await;
        assert_eq!(status, 200, "{page}");
        let form = format!("{}&name={name}", token(&page));
        let (_, page) = self.browse(front.addr, "/name/", Some(&form)).await;
        let form = format!("{}&message=Hello+from+{name}", token(&page));
        let (status, page) = self.browse(front.addr, "/", Some(&form)).await;
        assert!(status == 200 && page.contains(&format!("Hello from {name}")), "{page}");
        let sql = "SELECT count(*) FROM guests_entry";
        let count = query(self.database, address(self.database, 5432), sql).await;
        assert!(count.unwrap().parse::<u32>().unwrap() > 0, "it is in PostgreSQL");

        // Without the database the application fails, and it works again with it.
        database.crash().await;
        assert_eq!(self.browse(front.addr, "/", None).await.0, 500);
        let database = self.start_database().await;
        let (status, page) = self.browse(front.addr, "/", None).await;
        assert!(status == 200 && page.contains(&format!("Hello from {name}")), "{page}");
        // Without the application it is the front that answers.
        application.stop().await;
        assert_eq!(self.browse(front.addr, "/", None).await.0, 502);

        front.stop().await;
        database.crash().await;
    }
}

#[test]
#[cfg_attr(
    not(all(peer_root, peer_ip, peer_curl, peer_postgres, peer_psycopg)),
    ignore = "it needs root, ip, curl, PostgreSQL, and Django and psycopg for VESTIBULE_PYTHON"
)]
fn guest_book_works_on_three_machines_and_on_one_with_the_same_code() {
    let (cluster, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Machine::here().run(Postgres::create(cluster.path()));
    let (_network, [front, app, database]) = Network::new("g");
    for (is_apart, name) in [(true, "Ann"), (false, "Bob")] {
        let (app, database) = if is_apart {
            (app.clone(), database.clone())
        } else {
            (front.loopback(), front.loopback())
        };
        let front = if is_apart { front.clone() } else { front.loopback() };
        let (cluster, data) = (cluster.path(), data.path());
        std::thread::scope(|scope| {
            let site = Site { front: &front, app: &app, database: &database, cluster, data };
            let visit = scope.spawn(move || site.front.run(site.visit(name)));
            visit.join().unwrap();
        });
    }
}
