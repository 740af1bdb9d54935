//! `PerClientConnections`: the number of open connections of each client.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::peer::{IPV6_PREFIX, Peer};

/// The connection counts of all clients, shared by all threads. A client without connections has no entry.
#[derive(Debug)]
pub(super) struct Tally {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Tally {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing panics while the lock is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more connection of this client, if it may have one: then [`left`](Self::left) must
    /// follow. A client without an address always may.
    pub(super) fn admits(&self, peer: &Peer) -> bool {
        let Some(client) = peer.network(IPV6_PREFIX) else { return true };
        let mut open = self.lock();
        let n = open.get(&client).copied().unwrap_or(0);
        let admitted = n < self.most;
        if admitted {
            open.insert(client, n + 1);
        }
        admitted
    }

    /// Counts a connection as ended.
    pub(super) fn left(&self, peer: &Peer) {
        let Some(client) = peer.network(IPV6_PREFIX) else { return };
        let mut open = self.lock();
        if let Some(n) = open.get_mut(&client) {
            *n -= 1;
            if *n == 0 {
                open.remove(&client);
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
    fn each_client_has_its_own_count_and_none_is_kept_after_it_left() {
        let tally = Tally::new(2);
        let (a, b) = (peer("192.0.2.1"), peer("192.0.2.2"));
        assert!(tally.admits(&a) && tally.admits(&a) && !tally.admits(&a));
        assert!(tally.admits(&b));
        tally.left(&a);
        assert!(tally.admits(&a) && !tally.admits(&a));
        [&a, &a, &b].into_iter().for_each(|p| tally.left(p));
        assert!(tally.lock().is_empty());
    }

    #[test]
    fn refused_client_is_not_counted() {
        let tally = Tally::new(0);
        assert!(!tally.admits(&peer("192.0.2.1")));
        assert!(tally.lock().is_empty());
    }

    #[test]
    fn ipv6_network_is_one_client_and_unix_socket_has_none() {
        let tally = Tally::new(1);
        assert!(tally.admits(&peer("[2001:db8::1]")));
        assert!(!tally.admits(&peer("[2001:db8::2]")));
        assert!(tally.admits(&peer("[2001:db8:0:1::1]")));
        assert!(tally.admits(&peer("192.0.2.1")) && !tally.admits(&peer("[::ffff:192.0.2.1]")));
        for _ in 0..3 {
            assert!(tally.admits(&Peer::unix()));
        }
    }
}
