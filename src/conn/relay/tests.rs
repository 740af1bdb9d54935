//! Wake-ups of a relay between sockets, whose idle directions are not polled.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Wake},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UnixStream},
    sync::Notify,
    task::coop,
};

use super::*;
use crate::net::Stream;

/// Awaits a future. Panics if it hangs.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it hangs")
}

/// A relay, its client and its server.
fn relay() -> (Relay<Stream, ReadBuffer>, [UnixStream; 2]) {
    let ((client, a), (server, b)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let limits = Limits { idle_timeout: Duration::MAX, total_timeout: None };
    (Relay::new(a.into(), b.into(), limits), [client, server])
}

/// A connection whose far end has a small receive buffer, so that bytes wait in the send queue of the near one.
async fn tcp_pair() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let connecting = socket.connect(listener.local_addr().unwrap());
    let (far, near) = tokio::join!(connecting, listener.accept());
    let near = near.unwrap().0;
    socket2::SockRef::from(&near).set_send_buffer_size(1 << 20).unwrap();
    (near.into(), far.unwrap())
}

const MESSAGE: &[u8] = b"message";

/// Receives a message.
async fn receive(to: &mut UnixStream) {
    let mut message = [0; MESSAGE.len()];
    within(to.read_exact(&mut message)).await.unwrap();
    assert_eq!(message, MESSAGE);
}

/// A task whose wake-ups are notifications.
struct Task(Notify);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn relay_without_budget_registers_its_reads_when_it_is_polled_again() {
    for from_client in [true, false] {
        let (mut relay, [mut client, mut server]) = relay();
        let (mut polls, registered) = (0, Arc::new(Notify::new()));
        let is_registered = registered.clone();
        let task = tokio::spawn(poll_fn(move |cx| {
            polls += 1;
            if polls == 1 {
                // The reads are pending without a registration, and tokio wakes the task for another poll.
                while let Poll::Ready(unit) = coop::poll_proceed(cx) {
                    unit.made_progress();
                }
            }
            assert_eq!(coop::has_budget_remaining(), polls > 1);
            let ended = relay.poll(cx);
            if polls == 2 {
                is_registered.notify_one();
            }
            ended
        }));
        within(registered.notified()).await;
        let (from, to) =
            if from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
        from.write_all(MESSAGE).await.unwrap();
        receive(to).await;
        drop((client, server));
        assert!(matches!(within(task).await.unwrap(), End::Complete));
    }
}

#[tokio::test]
async fn relay_wakes_the_task_of_its_last_poll() {
    let tasks = [0, 1].map(|_| Arc::new(Task(Notify::new())));
    let wakers = tasks.clone().map(Waker::from);
    let (mut relay, [mut client, mut server]) = relay();
    let mut poll = |task: usize| relay.poll(&mut Context::from_waker(&wakers[task]));
    // Idle in one task, then polled by the other one, as in a `select!` or after a move to another task.
    for (task, from_client) in [(0, true), (1, true), (1, false), (0, false), (1, true), (0, true)]
    {
        assert!(poll(1 - task).is_pending());
        assert!(poll(task).is_pending());
        let [from, to] =
            if from_client { [&mut client, &mut server] } else { [&mut server, &mut client] };
        from.write_all(MESSAGE).await.unwrap();
        within(tasks[task].0.notified()).await;
        assert!(poll(task).is_pending());
        receive(to).await;
    }
}

#[tokio::test(start_paused = true)]
async fn relay_wakes_the_task_of_its_last_poll_at_its_idle_timeout() {
    let tasks = [0, 1].map(|_| Arc::new(Task(Notify::new())));
    let wakers = tasks.clone().map(Waker::from);
    let (mut relay, _ends) = relay();
    relay.limits.idle_timeout = Duration::from_secs(10);
    let mut poll = |task: usize| relay.poll(&mut Context::from_waker(&wakers[task]));
    assert!(poll(0).is_pending());
    assert!(poll(1).is_pending());
    within(tasks[1].0.notified()).await;
    assert!(matches!(poll(1), Poll::Ready(End::Idle)));
}

#[tokio::test]
async fn idle_direction_is_not_read_while_the_other_one_moves() {
    let task = Arc::new(Task(Notify::new()));
    let waker = Waker::from(task.clone());
    let (mut relay, [mut client, mut server]) = relay();
    let mut cx = Context::from_waker(&waker);
    assert!(relay.poll(&mut cx).is_pending());
    for _ in 0..3 {
        client.write_all(MESSAGE).await.unwrap();
        within(task.0.notified()).await;
        assert!(relay.down.is_idle(&relay.server) && !relay.up.is_idle(&relay.client));
        assert!(relay.poll(&mut cx).is_pending());
        receive(&mut server).await;
    }
}

/// A relay between a slow peer, which has read nothing of what it was sent, and one that has closed its connection after
/// it. Returns the end if the relay has ended although bytes wait for the slow peer.
async fn failed_relay(
    client_is_slow: bool,
    bytes: &[u8],
) -> (Relay<Stream, ReadBuffer>, TcpStream, Option<End>) {
    let ((client, far_client), (server, far_server)) = (tcp_pair().await, tcp_pair().await);
    let limits = Limits { idle_timeout: Duration::MAX, total_timeout: None };
    let mut relay = Relay::new(client, server, limits);
    let (mut slow, mut closed) =
        if client_is_slow { (far_client, far_server) } else { (far_server, far_client) };
    let sent = async {
        closed.write_all(bytes).await.unwrap();
        drop(closed);
    };
    let passed_on = poll_fn(|cx| {
        assert!(relay.poll(cx).is_pending());
        let is_done = if client_is_slow { relay.down.is_done } else { relay.up.is_done };
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    });
    within(async { tokio::join!(sent, passed_on) }).await;
    // The closed connection answers the first message by a reset, and the next one cannot be written.
    let mut end = None;
    for n in [MESSAGE.len(), 2 * MESSAGE.len()] {
        slow.write_all(MESSAGE).await.unwrap();
        let passed_on = poll_fn(|cx| match relay.poll(cx) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending => {
                let moved = if client_is_slow { relay.up.moved } else { relay.down.moved };
                let has_passed = relay.linger.is_some() || moved == n as u64;
                if has_passed { Poll::Ready(None) } else { Poll::Pending }
            }
        });
        end = within(passed_on).await;
    }
    (relay, slow, end)
}

/// What a failed relay has sent to its slow peer.
static BYTES: [u8; 160 << 10] = [b'x'; 160 << 10];

#[tokio::test]
async fn slow_peer_gets_all_bytes_although_the_other_connection_has_failed() {
    for client_is_slow in [true, false] {
        let (mut relay, mut slow, end) = failed_relay(client_is_slow, &BYTES).await;
        let ended = async {
            let end = match end {
                Some(end) => end,
                None => poll_fn(|cx| relay.poll(cx)).await,
            };
            relay.finish(&end);
            end
        };
        let read = async move {
            slow.write_all(MESSAGE).await.unwrap();
            let mut received = Vec::new();
            let result = slow.read_to_end(&mut received).await;
            drop(slow); // the relay waits no longer
            result.map(|_| received.len())
        };
        let (end, received) = within(async { tokio::join!(ended, read) }).await;
        assert_eq!(received.unwrap(), BYTES.len());
        assert!(matches!((client_is_slow, end), (true, End::Server(_)) | (false, End::Client(_))));
    }
}

#[tokio::test]
async fn failed_relay_does_not_wait_for_a_peer_that_takes_nothing() {
    let (mut relay, _slow, end) = failed_relay(true, &BYTES).await;
    assert!(end.is_none(), "{end:?}");
    tokio::time::pause();
    let end = tokio::time::timeout(Duration::from_secs(60), poll_fn(|cx| relay.poll(cx))).await;
    assert!(matches!(end, Ok(End::Server(_))), "{end:?}");
}
