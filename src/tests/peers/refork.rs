//! Django workers with connections to PostgreSQL, which are forked again from one that has used its own.

use std::{
    env,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http_body_util::BodyExt;
use tokio::{process::Command, task::JoinSet};
use tower::ServiceExt;

use super::{
    machines::Machine,
    nginx::free_address,
    postgres::{Postgres, query},
};
use crate::{
    Body, Request,
    tests::support::{TIMEOUT, within},
    worker::{self, Processes},
};

/// The connections of the workers. Each worker keeps one between requests.
const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity \
     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

/// Requests the page of a new visitor, which reads entries and writes a session.
async fn visit(pool: &Processes) {
    let request = Request::get("/").header("host", "127.0.0.1").body(Body::empty()).unwrap();
    let response = pool.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let page = response.into_body().collect().await.unwrap().to_bytes();
    let page = String::from_utf8_lossy(&page);
    assert!(status == 200 && page.contains("You have been here 1 time."), "{status} {page}");
}

#[tokio::test]
#[cfg_attr(
    not(all(peer_postgres, peer_psycopg)),
    ignore = "it needs PostgreSQL, and Django and psycopg for VESTIBULE_PYTHON"
)]
async fn reforked_workers_have_their_own_connections_to_postgresql() {
    let python = env::var("VESTIBULE_PYTHON").expect("VESTIBULE_PYTHON names a Python with Django");
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/django");
    let (cluster, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, address) = (Machine::here(), free_address().await);
    Postgres::create(cluster.path()).await;
    let database = Postgres::start(&here, cluster.path(), address, &[]).await;
    let variables = [
        ("DATABASE_URL", format!("postgresql://postgres@{address}/postgres")),
        ("DJANGO_DATA", data.path().display().to_string()),
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
    ];
    let mut migrate = Command::new(&python);
    migrate.args(["manage.py", "migrate", "--verbosity", "0"]).current_dir(&project);
    assert!(within(migrate.envs(variables.clone()).status()).await.unwrap().success());

    let mut site = worker::wsgi("mysite.wsgi:application").python(&python).directory(&project);
    for (name, value) in &variables {
        site = site.env(name, value);
    }
    let pool = site.workers(2).refork_after(20).start().unwrap();
    let is_on = Arc::new(AtomicBool::new(true));
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (pool, is_on) = (pool.clone(), is_on.clone());
        load.spawn(async move {
            while is_on.load(Ordering::Relaxed) {
                visit(&pool).await;
            }
        });
    }
    // The mould and its successor, and the other worker that was forked before.
    within(async {
        while pool.stats().reforks < 1 || pool.stats().recycled < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // That of the mould is closed, and those of the workers that were replaced.
    within(async { while query(&here, address, CONNECTIONS).await.unwrap() != "2" {} }).await;
    is_on.store(false, Ordering::Relaxed);
    within(load.join_all()).await;
    assert_eq!((pool.stats().reforks, pool.stats().panics, pool.stats().workers), (1, 0, 2));
    within(pool.shutdown(TIMEOUT)).await.unwrap();
    database.crash().await;
}
