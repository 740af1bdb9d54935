//! Connecting: names are resolved, and the addresses of a name race (RFC 8305).

use std::{
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    pin::Pin,
    sync::LazyLock,
    task::Poll,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::blocking_pool::BlockingPool;

/// Time after which the next address is tried while an attempt is still running: 250 ms (RFC 8305 section 8).
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Maximum number of addresses of one name that are tried. A name with more addresses is balanced by its DNS server,
/// which changes their order.
const MAX_ADDRESSES: usize = 16;

/// Connects to `host:port`. A host name is resolved on a [`BlockingPool`]: tokio's pool panics if the system
/// cannot start a thread.
pub(super) async fn connect_tcp(host: &str) -> io::Result<TcpStream> {
    race(interleave(resolve(host).await?), ATTEMPT_DELAY, TcpStream::connect).await
}

/// Does the same as [`connect_tcp`], but only to addresses that `allows` accepts.
///
/// # Errors
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) if it accepts none of the name's addresses.
#[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for tunnels of clients"))]
pub(super) async fn connect_allowed(
    host: &str,
    allows: impl Fn(IpAddr) -> bool,
) -> io::Result<TcpStream> {
    let mut addrs = resolve(host).await?;
    let is_empty = addrs.is_empty();
    addrs.retain(|addr| allows(addr.ip()));
    if addrs.is_empty() && !is_empty {
        let message = "no address of the host is allowed";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    race(interleave(addrs), ATTEMPT_DELAY, TcpStream::connect).await
}

/// Returns the addresses of `host:port`.
async fn resolve(host: &str) -> io::Result<Vec<SocketAddr>> {
    /// A separate pool, so that name servers that do not answer occupy no thread of the disks.
    static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);
    if let Ok(addr) = host.parse::<SocketAddr>() {
        return Ok(vec![addr]);
    }
    let name = host.to_owned();
    let found = POOL.call(move || name.to_socket_addrs().map(Vec::from_iter)).await;
    found.map_err(|_| io::Error::other("the thread that resolved the host name panicked"))??
}

/// Returns the addresses in their order of preference, but with the families in turn (RFC 8305 section 4),
/// so that a family without a route costs one attempt.
fn interleave(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) =
        addrs.into_iter().partition(|addr| addr.is_ipv6() == first_is_v6);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut out = Vec::new();
    loop {
        let before = out.len();
        out.extend(preferred.next());
        out.extend(other.next());
        if out.len() == before || out.len() >= MAX_ADDRESSES {
            out.truncate(MAX_ADDRESSES);
            return out;
        }
    }
}

/// Connects to the address that answers first. The next one is tried when the last attempt has failed, or
/// has taken `delay`; running attempts continue (RFC 8305 section 5).
///
/// # Errors
/// The error of the attempt that failed last; [`NotFound`](io::ErrorKind::NotFound) without an address.
async fn race<T, F>(
    addrs: Vec<SocketAddr>,
    delay: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut addrs = addrs.into_iter();
    let mut attempts: Vec<Pin<Box<F>>> = Vec::new();
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    poll_fn(|cx| {
        loop {
            let mut failed = false;
            let mut index = 0;
            while let Some(attempt) = attempts.get_mut(index) {
                match attempt.as_mut().poll(cx) {
                    Poll::Ready(Ok(connected)) => return Poll::Ready(Ok(connected)),
                    Poll::Ready(Err(e)) => {
                        error = e;
                        failed = true;
                        drop(attempts.remove(index));
                    }
                    Poll::Pending => index += 1,
                }
            }
            let is_due = match &mut timer {
                None => true,
                Some(_) if failed => true,
                Some(timer) => timer.as_mut().poll(cx).is_ready(),
            };
            match addrs.as_slice() {
                [] if attempts.is_empty() => {
                    let error = std::mem::replace(&mut error, io::ErrorKind::Other.into());
                    return Poll::Ready(Err(error));
                }
                [next, ..] if is_due => {
                    attempts.push(Box::pin(connect(*next)));
                    addrs.next();
                    timer = Some(Box::pin(sleep(delay)));
                }
                _ => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;

    fn addrs(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_from_the_preferred_one() {
        let got = interleave(addrs(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]));
        assert_eq!(got, addrs(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]));
        let got = interleave(addrs(&["1.1.1.1:1", "[::1]:1"]));
        assert_eq!(got, addrs(&["1.1.1.1:1", "[::1]:1"]));
        let many = (0..99).map(|n| SocketAddr::from(([10, 0, 0, n], 1))).collect();
        assert_eq!(interleave(many).len(), MAX_ADDRESSES);
        assert_eq!(interleave(Vec::new()), []);
    }

    /// The outcome depends on the port: 1 hangs, 2 is refused, 3 connects at once.
    async fn connect(addr: SocketAddr) -> io::Result<SocketAddr> {
        match addr.port() {
            1 => std::future::pending().await,
            2 => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => Ok(addr),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn address_that_hangs_delays_the_next_by_one_step() {
        let began = Instant::now();
        let list = addrs(&["[::1]:1", "1.1.1.1:3", "2.2.2.2:3"]);
        let got = race(list, ATTEMPT_DELAY, connect).await.unwrap();
        assert_eq!((got, began.elapsed()), (addrs(&["1.1.1.1:3"])[0], ATTEMPT_DELAY));
    }

    #[tokio::test(start_paused = true)]
    async fn address_that_refuses_does_not_delay_the_next() {
        let tried = RefCell::new(Vec::new());
        let began = Instant::now();
        let list = addrs(&["[::1]:2", "1.1.1.1:2", "[::2]:3", "2.2.2.2:3"]);
        let logged = |addr: SocketAddr| {
            tried.borrow_mut().push(addr);
            connect(addr)
        };
        race(list, ATTEMPT_DELAY, logged).await.unwrap();
        assert_eq!((tried.borrow().len(), began.elapsed()), (3, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_attempt_is_used_if_it_succeeds_first() {
        let slow = |addr: SocketAddr| async move {
            if addr.port() == 9 {
                sleep(ATTEMPT_DELAY * 2).await;
            }
            connect(addr).await
        };
        let list = addrs(&["[::1]:9", "1.1.1.1:1", "[::2]:1"]);
        assert_eq!(race(list, ATTEMPT_DELAY, slow).await.unwrap(), addrs(&["[::1]:9"])[0]);
    }

    #[tokio::test]
    async fn name_without_an_address_that_answers_is_an_error() {
        let refused = race(addrs(&["[::1]:2", "1.1.1.1:2"]), ATTEMPT_DELAY, connect).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let none = race(Vec::new(), ATTEMPT_DELAY, connect).await;
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
