//! A Redis server of a test, on a Unix socket in a directory.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Child,
};

use super::{listening, program};
use crate::tests::support::within;

/// A server that is killed on drop.
pub(super) struct RedisServer {
    child: Child,
    socket: std::path::PathBuf,
}

impl RedisServer {
    /// Starts a server with a socket of this name.
    pub(super) async fn start(dir: &Path, name: &str) -> Self {
        Self::start_with(dir, name, &["--port", "0"]).await
    }

    /// Starts a server with more arguments.
    pub(super) async fn start_with(dir: &Path, name: &str, arguments: &[&str]) -> Self {
        let socket = dir.join(name);
        let mut command = program("redis-server");
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(dir).args(arguments);
        command.arg("--unixsocket").arg(&socket).stdout(std::process::Stdio::null());
        let mut child = command.spawn().expect("redis-server is installed");
        listening(&mut child, async || UnixStream::connect(&socket).await.is_ok()).await;
        Self { child, socket }
    }

    /// Returns its address for a balancer.
    pub(super) fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    pub(super) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    /// Sends a command and returns the first bytes of the answer.
    pub(super) async fn call(&self, command: &str) -> String {
        let mut connection = UnixStream::connect(&self.socket).await.unwrap();
        connection.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let n = within(connection.read(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer[..n]).into_owned()
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub(super) async fn kill(&mut self) {
        self.child.start_kill().unwrap();
        within(self.child.wait()).await.unwrap();
    }
}
