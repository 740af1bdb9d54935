//! Bounds on the time of a tunnel, over streams in memory.

use std::time::Duration;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;
use crate::{Body, conn::upgrade::Upgraded};

const SEC: Duration = Duration::from_secs(1);

/// Runs a tunnel. Returns its client and its server.
fn tunnel(options: TunnelOptions) -> (DuplexStream, DuplexStream, JoinHandle<()>) {
    let ((client, a), (server, b)) = (duplex(64), duplex(64));
    let mut request = Request::new(Body::empty());
    upgrade::set(request.headers_mut(), HeaderValue::from_static("websocket"));
    let switch = Tunnels::new(options).switch(&request).unwrap().unwrap();
    let [a, b] = [a, b].map(|io| Upgraded::new(io, BytesMut::new()));
    let run = switch.run(a, b);
    (client, server, tokio::spawn(run))
}

#[tokio::test(start_paused = true)]
async fn tunnel_without_traffic_ends_at_its_idle_timeout() {
    let (mut client, mut server, task) = tunnel(TunnelOptions::new().idle_timeout(60 * SEC));
    let begun = Instant::now();
    for to_server in [true, false] {
        tokio::time::sleep(59 * SEC).await;
        let (from, to) =
            if to_server { (&mut client, &mut server) } else { (&mut server, &mut client) };
        from.write_all(b"x").await.unwrap();
        assert_eq!(to.read_u8().await.unwrap(), b'x');
    }
    task.await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 2 * 59 + 60);
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn tunnel_ends_at_its_total_timeout_despite_traffic() {
    let (mut client, mut server, task) = tunnel(TunnelOptions::new().total_timeout(100 * SEC));
    let begun = Instant::now();
    while !task.is_finished() {
        let _ = client.write_all(b"x").await;
        let _ = timeout(SEC, server.read_u8()).await;
        tokio::time::sleep(SEC).await;
    }
    let seconds = begun.elapsed().as_secs(); // the last turn of the loop takes up to two
    assert!((100..=102).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn slow_reader_holds_back_the_writer() {
    let (mut client, mut server, _task) = tunnel(TunnelOptions::new());
    let written = timeout(SEC, client.write_all(&[7; 1 << 20])).await;
    assert!(written.is_err(), "64 bytes of each stream and one read are all that it holds");
    let mut all = vec![0; 128];
    timeout(SEC, server.read_exact(&mut all)).await.unwrap().unwrap();
}
