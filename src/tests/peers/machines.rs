//! Machines of a test: network namespaces, or this one.

use std::{fs::File, os::fd::AsFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::process::Command;

use super::program;

/// A machine: a network namespace, or this one.
#[derive(Clone)]
pub(super) struct Machine {
    namespace: Option<String>,
    pub(super) ip: String,
}

impl Machine {
    pub(super) fn here() -> Self {
        Self { namespace: None, ip: "127.0.0.1".into() }
    }

    /// The same machine, by its own loopback address.
    pub(super) fn loopback(&self) -> Self {
        Self { ip: "127.0.0.1".into(), ..self.clone() }
    }

    /// A command that runs there.
    pub(super) fn command(&self, name: &str) -> Command {
        match &self.namespace {
            None => program(name),
            Some(namespace) => {
                let mut command = program("ip");
                command.args(["netns", "exec", namespace, name]);
                command
            }
        }
    }

    /// Moves this thread there, with the threads and sockets that it makes from now on.
    fn enter(&self) {
        let Some(namespace) = &self.namespace else { return };
        let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Runs a future there, in a runtime of its own.
    pub(super) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.enter();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    }
}

/// Namespaces, which are deleted with this.
pub(super) struct Network(Vec<String>);

impl Network {
    /// Three machines of one network: the first has the bridge. The name tells tests apart.
    pub(super) fn new(test: &str) -> (Self, [Machine; 3]) {
        let id = std::process::id();
        let names: Vec<_> = ["f", "a", "d"].iter().map(|n| format!("vt{test}{n}{id}")).collect();
        let network = Self(names);
        let [front, others @ ..] = &network.0[..] else { unreachable!("there are three") };
        for name in &network.0 {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        ip(&["-n", front, "link", "add", "br0", "address", &mac("10.77.0.1"), "type", "bridge"]);
        ip(&["-n", front, "addr", "add", "10.77.0.1/24", "dev", "br0"]);
        ip(&["-n", front, "link", "set", "br0", "up"]);
        for (n, name) in (2..).zip(others) {
            let (port, address) = (format!("p{n}"), format!("10.77.0.{n}/24"));
            let mac = mac(&format!("10.77.0.{n}"));
            let peer = ["type", "veth", "peer", "name", "eth0", "address", &mac, "netns", name];
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

impl Network {
    /// Connects a machine other than the first to the network, or separates it. All packets to and from a separated
    /// machine are lost, without a message.
    pub(super) fn set_link(&self, machine: &Machine, is_up: bool) {
        let (front, name) = (&self.0[0], machine.namespace.as_ref().unwrap());
        if !is_up {
            // Neighbours stay known. Otherwise the kernel would report that a host is unreachable.
            for (from, device, to) in
                [(front, "br0", machine.ip.as_str()), (name, "eth0", "10.77.0.1")]
            {
                ip(&["-n", from, "neigh", "replace", to, "lladdr", &mac(to), "dev", device]);
            }
        }
        let port = format!("p{}", machine.ip.rsplit('.').next().unwrap());
        ip(&["-n", front, "link", "set", &port, if is_up { "up" } else { "down" }]);
    }
}

/// Returns the hardware address of a machine.
fn mac(address: &str) -> String {
    format!("02:00:00:00:00:0{}", address.rsplit('.').next().unwrap())
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
