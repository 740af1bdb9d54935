//! Two Redis servers behind a TCP balancer, one of which is killed.

use std::path::Path;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixStream},
    process::Child,
};

use super::{listening, noise, program};
use crate::{
    net::{Address, Drain, Listener},
    tests::support::within,
    upstream::TcpBalance,
};

/// A Redis on a Unix socket in a directory, which says its name.
struct Redis {
    child: Child,
    address: String,
}

impl Redis {
    async fn start(dir: &Path, name: &str) -> Self {
        let socket = dir.join(name);
        let mut command = program("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"]).arg(dir);
        command.arg("--unixsocket").arg(&socket).stdout(std::process::Stdio::null());
        let mut child = command.spawn().expect("redis-server is installed");
        listening(&mut child, async || UnixStream::connect(&socket).await.is_ok()).await;
        let mut direct = UnixStream::connect(&socket).await.unwrap();
        direct.write_all(format!("SET name {name}\r\n").as_bytes()).await.unwrap();
        let mut ok = [0; 5];
        direct.read_exact(&mut ok).await.unwrap();
        assert_eq!(&ok, b"+OK\r\n");
        Self { child, address: format!("unix:{}", socket.display()) }
    }

    async fn kill(&mut self) {
        self.child.start_kill().unwrap();
        within(self.child.wait()).await.unwrap();
    }
}

/// Asks for a value on a connection; `None` if it is closed.
async fn get(connection: &mut BufReader<TcpStream>, key: &str) -> Option<Vec<u8>> {
    connection.get_mut().write_all(format!("GET {key}\r\n").as_bytes()).await.ok()?;
    let mut length = String::new();
    connection.read_line(&mut length).await.ok()?;
    let length: usize = length.trim_end().strip_prefix('$')?.parse().ok()?;
    let mut value = vec![0; length + 2];
    connection.read_exact(&mut value).await.ok()?;
    value.truncate(length);
    Some(value)
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn connections_go_to_the_other_redis_when_one_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, mut second) =
        (Redis::start(dir.path(), "one").await, Redis::start(dir.path(), "two").await);
    let balance = TcpBalance::builder([&first.address, &second.address]).build().unwrap();
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), false).unwrap();
    let Address::Tcp(addr) = listener.local_addr().unwrap() else { panic!("it is TCP") };
    let drain = Drain::new();
    let (serving, watched) = (balance.clone(), drain.clone());
    let task = tokio::spawn(async move { serving.serve(listener, &watched).await });
    let connect = async || BufReader::new(TcpStream::connect(&addr).await.unwrap());

    // Both serve, and a large value passes unchanged.
    let (mut a, mut b) = (connect().await, connect().await);
    let mut names = [get(&mut a, "name").await.unwrap(), get(&mut b, "name").await.unwrap()];
    names.sort_unstable();
    assert_eq!(names, [&b"one"[..], b"two"]);
    let large = noise(2_000_000);
    let head = format!("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n${}\r\n", large.len());
    a.get_mut().write_all(&[head.as_bytes(), &large, b"\r\n"].concat()).await.unwrap();
    let mut ok = String::new();
    a.read_line(&mut ok).await.unwrap();
    assert_eq!(ok, "+OK\r\n");
    assert!(get(&mut a, "large").await.unwrap() == large);

    // The connection to the one that is killed breaks; all new ones go to the other.
    first.kill().await;
    let broken = [get(&mut a, "name").await, get(&mut b, "name").await];
    assert_eq!(broken.iter().filter(|name| name.is_none()).count(), 1, "{broken:?}");
    for _ in 0..6 {
        let mut connection = connect().await;
        assert_eq!(get(&mut connection, "name").await.unwrap(), b"two");
    }
    second.kill().await;
    drop((a, b));
    drain.begin();
    within(drain.ended()).await;
    task.await.unwrap().unwrap();
    assert_eq!(balance.stats().failed, 0);
}
