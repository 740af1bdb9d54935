//! PostgreSQL: a primary and its standby behind a TCP balancer.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::{listening, machines::Machine, nginx::free_address};
use crate::{
    net::{Address, Drain, Listener},
    policy::pick::First,
    tests::support::within,
    upstream::TcpBalance,
};

/// The user that the servers run as if the tests run as root, which they refuse: `nobody`.
const NOBODY: u32 = 65534;

/// A running server.
pub(super) struct Postgres {
    child: Child,
}

impl Postgres {
    /// Creates an empty database below `dir`, which every address may use without a password.
    pub(super) async fn create(dir: &Path) {
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap_or_default(); // not as another user than root
        let mut initdb = command(&Machine::here(), "initdb");
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        run(initdb.args(["--no-sync", "-D"]).arg(dir)).await;
        let hba = dir.join("pg_hba.conf");
        let mut hba = OpenOptions::new().append(true).open(hba).unwrap();
        hba.write_all(b"host all all all trust\nhost replication all all trust\n").unwrap();
    }

    pub(super) async fn start(
        machine: &Machine,
        dir: &Path,
        address: SocketAddr,
        options: &[&str],
    ) -> Self {
        let mut server = command(machine, "postgres");
        server.arg("-D").arg(dir).args(["-F", "-k", "", "-h", &address.ip().to_string()]);
        server.args(["-p", &address.port().to_string()]).args(options);
        server.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = server.spawn().expect("PostgreSQL is installed");
        let answers = async || query(machine, address, "SELECT 1").await.is_ok();
        listening(&mut child, answers).await;
        Self { child }
    }

    /// Ends the server without a word to its clients, as a crash does, but without its shared memory left behind.
    pub(super) async fn crash(mut self) {
        let pid = self.child.id().unwrap().try_into().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
        within(self.child.wait()).await.unwrap();
    }
}

/// Runs statements on a new connection. Returns the rows, or the error.
pub(super) async fn query(
    machine: &Machine,
    address: SocketAddr,
    sql: &str,
) -> Result<String, String> {
    let mut psql = command(machine, "psql");
    psql.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    psql.args(["-U", "postgres", "-XAtqc", sql, "postgres"]).env("PGCONNECT_TIMEOUT", "10");
    let output = within(psql.output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// A command of the newest version that Debian has installed.
fn command(machine: &Machine, name: &str) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let programs = versions.map(|version| version.unwrap().path().join("bin").join(name));
    let program: PathBuf = programs.filter(|program| program.is_file()).max().unwrap();
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return machine.command(program.to_str().unwrap());
    }
    let mut command = machine.command("setpriv");
    let nobody = NOBODY.to_string();
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]).arg(program);
    command.current_dir("/");
    command
}

async fn run(command: &mut Command) {
    let output = within(command.output()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[cfg_attr(not(peer_postgres), ignore = "apt-get install postgresql")]
async fn connections_go_to_the_promoted_standby_when_the_primary_ends() {
    let here = Machine::here();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = [free_address().await, free_address().await];
    Postgres::create(dirs[0].path()).await;
    // A commit waits for the standby, so that none is lost.
    let options = ["-c", "cluster_name=first", "-c", "synchronous_standby_names=*"];
    let primary = Postgres::start(&here, dirs[0].path(), first, &options).await;
    chown(dirs[1].path(), Some(NOBODY), Some(NOBODY)).unwrap_or_default();
    fs::set_permissions(dirs[1].path(), Permissions::from_mode(0o700)).unwrap();
    let mut copy = command(&here, "pg_basebackup");
    copy.args(["-h", &first.ip().to_string(), "-p", &first.port().to_string(), "-U", "postgres"]);
    run(copy.args(["-R", "-N", "-c", "fast", "-D"]).arg(dirs[1].path())).await;
    let options = ["-c", "cluster_name=second", "-c", "synchronous_standby_names="];
    let standby = Postgres::start(&here, dirs[1].path(), second, &options).await;

    let servers = [first.to_string(), second.to_string()];
    let balance = TcpBalance::builder(servers).policy(First::new()).build().unwrap();
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), false).unwrap();
    let Address::Tcp(address) = listener.local_addr().unwrap() else { panic!("it is TCP") };
    let address: SocketAddr = address.parse().unwrap();
    let drain = Drain::new();
    let (serving, watched) = (balance.clone(), drain.clone());
    let task = tokio::spawn(async move { serving.serve(listener, &watched).await });
    let ask = async |sql: &'static str| query(&here, address, sql).await;

    assert_eq!(ask("SHOW cluster_name").await.unwrap(), "first");
    ask("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    let large = ask("SELECT repeat('x', 5000000)").await.unwrap();
    assert!(large.len() == 5_000_000 && large.bytes().all(|byte| byte == b'x'));

    primary.crash().await;
    let read_only = ask("INSERT INTO t VALUES (2)").await.unwrap_err();
    assert!(read_only.contains("read-only transaction"), "{read_only}");
    run(command(&here, "pg_ctl").args(["promote", "--wait", "-D"]).arg(dirs[1].path())).await;
    assert_eq!(ask("SHOW cluster_name").await.unwrap(), "second");
    ask("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(ask("SELECT string_agg(n::text, ' ' ORDER BY n) FROM t").await.unwrap(), "1 2");

    standby.crash().await;
    drain.begin();
    within(drain.ended()).await;
    task.await.unwrap().unwrap();
    let status = balance.balance().status();
    assert!(status[0].failures > 0 && !status[0].last_errors.is_empty(), "{status:?}");
}
