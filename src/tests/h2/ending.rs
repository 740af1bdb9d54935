//! How connections end: after a flood, when they are idle, and in a drain.

use std::{io, sync::mpsc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::Instant,
};

use super::{super::support::TIMEOUT, frames::*, *};
use crate::{net::Stream, proto::h2::PREFACE};

/// Fills a pipe of 4 KiB with a response that is not read, and then sends the frames. Returns the result of the
/// connection, and its time.
async fn flood_while_blocked(frames: Vec<Vec<u8>>) -> (io::Result<()>, Duration) {
    let large = tower::service_fn(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; 1 << 20])))
    });
    let mut served = serve_piped(4 << 10, large, Config::new(), DrainWatch::never());
    let mut raw = Raw::begin(&mut served, &[(4, 0x7fff_ffff)]).await; // SETTINGS_INITIAL_WINDOW_SIZE
    raw.write(&frame(WINDOW_UPDATE, 0, 0, &0x7000_0000u32.to_be_bytes())).await;
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
    let began = Instant::now();
    for frame in frames {
        // The server stops reading at the limit of frames, and then the pipe may be full.
        if tokio::time::timeout(SECOND / 2, raw.0.write_all(&frame)).await.is_err() {
            break;
        }
        tokio::task::yield_now().await; // so that each is read by itself
    }
    (served.task.await.unwrap(), began.elapsed())
}

#[test]
fn flood_from_a_client_that_reads_nothing_ends_the_connection_without_a_busy_loop() {
    type Frames = dyn Fn(u32) -> Vec<u8> + Send + Sync;
    let floods: [(&str, u32, Box<Frames>); 3] = [
        ("unknown types", 150, Box::new(|_| frame(0xaa, 0, 0, b"x"))),
        ("PRIORITY", 600, Box::new(|_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]))),
        (
            "RST_STREAM",
            300,
            Box::new(|n| {
                let stream = 2 * n + 3;
                let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
                [request, frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
            }),
        ),
    ];
    for (what, n, flood) in floods {
        let (done, ended) = mpsc::channel();
        // A thread of its own, which a busy loop would never leave.
        let run = move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().start_paused(true).build().unwrap();
            let frames = (0..n).map(flood).collect();
            let _ = done.send(runtime.block_on(flood_while_blocked(frames)));
        };
        std::thread::Builder::new().spawn(run).unwrap();
        let (result, took) = ended.recv_timeout(TIMEOUT).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData, "{what}");
        assert!(took <= 2 * SECOND, "{what}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn request_in_the_second_after_the_idle_timeout_is_served() {
    let mut served = serve(tell(), Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    let began = Instant::now();
    assert_eq!(raw.goaway().await, Some(0));
    assert_eq!(began.elapsed().as_secs(), 75);
    tokio::time::sleep(SECOND / 2).await;
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
    assert_eq!(raw.next_of(HEADERS).await.expect("it is served").stream, 1);
    assert_eq!(raw.next_of(DATA).await.unwrap().payload, b"GET / a");
    assert!(raw.next().await.is_none());
    drop(raw);
    served.task.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 76, "the idle timeout, and a second for the client");
}

#[tokio::test(start_paused = true)]
async fn idle_connection_is_shed_with_goaway() {
    let (drain, watch) = drain();
    let mut served = serve_watched(tell(), Config::new(), watch);
    let mut raw = Raw::begin(&mut served, &[]).await;
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
    raw.next_of(DATA).await.unwrap();
    tokio::time::sleep(SECOND).await;
    drain.request_shed(1);
    drain.wake_next(1);
    let goaway = raw.next_of(GOAWAY).await.unwrap();
    assert_eq!((goaway.number(0), goaway.number(4)), (1, 0), "the last request, and no error");
    assert!(raw.next().await.is_none());
    served.task.await.unwrap().unwrap();
}

/// A connection over TCP, whose client has a receive buffer of a few KiB, and whose server has room for a response.
async fn connect_tcp<S>(service: S, config: Config, watch: DrainWatch) -> TcpStream
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let (client, accepted) =
        tokio::join!(socket.connect(listener.local_addr().unwrap()), listener.accept());
    let accepted = accepted.unwrap().0;
    socket2::SockRef::from(&accepted).set_send_buffer_size(1 << 20).unwrap();
    let transport = Transport::new(Stream::from(accepted), Peer::memory(), watch);
    tokio::spawn(Connection::new(transport, service, Arc::new(config)));
    client.unwrap()
}

#[tokio::test]
async fn connection_whose_request_only_the_kernel_has_received_is_not_shed() {
    let (drain, watch) = drain();
    let mut client = connect_tcp(tell(), Config::new(), watch).await;
    let request = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, b""), &request(1)].concat();
    client.write_all(&begin).await.unwrap();
    for _ in 0..2 {
        let mut answer = Vec::new();
        while !answer.ends_with(b"GET / a") {
            answer.push(within(client.read_u8()).await.expect("the connection stays"));
        }
        tokio::time::pause();
        tokio::time::advance(SECOND).await;
        tokio::time::resume();
        // The runtime does not ask the kernel for events before it polls the connection, which is woken.
        assert_eq!(client.try_write(&request(3)).unwrap(), request(3).len());
        drain.request_shed(1);
        drain.wake_next(1);
    }
}

#[tokio::test]
async fn end_of_a_response_arrives_though_the_drain_has_ended() {
    const LEN: usize = 60_000;
    let large = tower::service_fn(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; LEN])))
    });
    let (drain, watch) = drain();
    let (logged, mut entries) = tokio::sync::mpsc::unbounded_channel();
    let config = Config::new().access_log(move |entry| {
        let _ = logged.send(entry.complete);
    });
    let mut client = connect_tcp(large, config, watch).await;
    let window = frame(SETTINGS, 0, 0, &[&[0, 4][..], &(1u32 << 20).to_be_bytes()].concat());
    let update = frame(WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes());
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET);
    client.write_all(&[PREFACE, &window, &update, &request].concat()).await.unwrap();
    assert_eq!(within(entries.recv()).await, Some(true), "the kernel has the response");
    drain.begin();
    within(drain.ended()).await;
    // The client reads on, and releases windows as it does.
    let mut received = 0;
    let mut head = [0; 9];
    while within(client.read_exact(&mut head)).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        within(client.read_exact(&mut payload)).await.unwrap();
        if head[3] == DATA {
            received += payload.len();
            let update = u32::try_from(payload.len().max(1)).unwrap().to_be_bytes();
            let _ = client.write_all(&frame(WINDOW_UPDATE, 0, 0, &update)).await;
        }
    }
    assert_eq!(received, LEN);
}

#[tokio::test]
async fn client_that_still_sends_after_a_flood_reads_goaway_and_the_end() {
    let mut client = connect_tcp(tell(), Config::new(), DrainWatch::never()).await;
    client.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    // More than the server reads before it ends the connection.
    let flood = frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]).repeat(20_000);
    within(client.write_all(&flood)).await.unwrap();
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer)).await.expect("the connection is not reset");
    let calm = frame(GOAWAY, 0, 0, &[0u32.to_be_bytes(), CALM.to_be_bytes()].concat());
    assert!(answer.ends_with(&calm), "{answer:?}");
}
