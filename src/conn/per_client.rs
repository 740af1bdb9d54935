//! `PerClientConnections`: the number of open connections of each client.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::peer::{IPV6_PREFIX, Peer};

/// The connection counts of all clients, shared by all threads. A client without connections has no entry.
#[derive(Debug)]
pub(crate) struct PerClientConnections {
    limit: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// Counts a connection of a client until it is dropped.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    connections: Arc<PerClientConnections>,
    peer: Peer,
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.connections.release(&self.peer);
    }
}

impl PerClientConnections {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, counts: Mutex::default() })
    }

    /// Counts a connection of `peer`. Returns `None` if the client has reached its limit.
    pub(crate) fn try_count(self: &Arc<Self>, peer: &Peer) -> Option<ClientConnection> {
        let admitted = self.try_acquire(peer);
        admitted.then(|| ClientConnection { connections: self.clone(), peer: peer.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing panics while the lock is held.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection of this client if it may have another, and returns whether it was added:
    /// [`release`](Self::release) must follow then. A client without an address has no limit.
    fn try_acquire(&self, peer: &Peer) -> bool {
        let Some(client) = peer.network(IPV6_PREFIX) else { return true };
        let mut counts = self.lock();
        let n = counts.get(&client).copied().unwrap_or(0);
        let admitted = n < self.limit;
        if admitted {
            counts.insert(client, n + 1);
        }
        admitted
    }

    /// Removes a connection that has ended.
    fn release(&self, peer: &Peer) {
        let Some(client) = peer.network(IPV6_PREFIX) else { return };
        let mut counts = self.lock();
        if let Some(n) = counts.get_mut(&client) {
            *n -= 1;
            if *n == 0 {
                counts.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ip: &str) -> Peer {
        Peer::tcp(format!("{ip}:1").parse().unwrap(), "127.0.0.1:80".parse().unwrap())
    }

    #[test]
    fn each_client_has_its_own_count_and_no_entry_without_connections() {
        let connections = PerClientConnections::new(2);
        let (a, b) = (peer("192.0.2.1"), peer("192.0.2.2"));
        assert!(
            connections.try_acquire(&a)
                && connections.try_acquire(&a)
                && !connections.try_acquire(&a)
        );
        assert!(connections.try_acquire(&b));
        connections.release(&a);
        assert!(connections.try_acquire(&a) && !connections.try_acquire(&a));
        [&a, &a, &b].into_iter().for_each(|p| connections.release(p));
        assert!(connections.lock().is_empty());
    }

    #[test]
    fn refused_client_is_not_counted() {
        let connections = PerClientConnections::new(0);
        assert!(!connections.try_acquire(&peer("192.0.2.1")));
        assert!(connections.lock().is_empty());
    }

    #[test]
    fn ipv6_network_is_one_client_and_unix_socket_has_none() {
        let connections = PerClientConnections::new(1);
        assert!(connections.try_acquire(&peer("[2001:db8::1]")));
        assert!(!connections.try_acquire(&peer("[2001:db8::2]")));
        assert!(connections.try_acquire(&peer("[2001:db8:0:1::1]")));
        assert!(
            connections.try_acquire(&peer("192.0.2.1"))
                && !connections.try_acquire(&peer("[::ffff:192.0.2.1]"))
        );
        for _ in 0..3 {
            assert!(connections.try_acquire(&Peer::unix()));
        }
    }
}
