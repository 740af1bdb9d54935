//! Tests with real clients and servers.

mod chromium;
mod curl;
mod disk;
mod django;
#[cfg(feature = "dns")]
mod dnsmasq;
#[cfg(feature = "etcd")]
mod etcd;
mod failover;
mod haproxy;
mod http_programs;
mod machines;
mod nginx;
mod php;
mod php_workers;
mod postgres;
mod redis;
#[cfg(feature = "redis")]
mod redis_server;
mod refork;
#[cfg(all(feature = "cache", feature = "redis"))]
mod shared_purge;
#[cfg(feature = "redis")]
mod shared_rate;
#[cfg(feature = "compression")]
mod spliced;
mod tiers;
#[cfg(all(feature = "h2", feature = "tls"))]
mod tls;
mod websockets;
mod workers;

use std::{path::Path, process::Stdio};

use tokio::process::{Child, Command};

use super::support::within;

/// Returns a command that runs a program of the system, which is killed on drop.
fn program(name: &str) -> Command {
    let sbin = Path::new("/usr/sbin").join(name);
    let mut command = Command::new(if sbin.is_file() { sbin.as_os_str() } else { name.as_ref() });
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Runs `curl` with common arguments and these, and returns its output.
async fn curl(args: &[&str]) -> String {
    let mut command = program("curl");
    command.args(["--silent", "--show-error", "--max-time", "60"]).args(args);
    let out = within(command.output()).await.unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Waits until a child that was started listens.
async fn listening(child: &mut Child, connects: impl AsyncFn() -> bool) {
    within(async {
        while !connects().await {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it ended before it listened: {status}");
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Returns a hash of a body (FNV-1a).
fn sum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Returns `len` pseudo-random bytes.
fn noise(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}
