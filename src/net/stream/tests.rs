use std::{future::poll_fn, io::Write, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// Returns a connected pair of TCP sockets and one of Unix sockets. The second stream of each is the accepted one.
async fn pairs() -> [(Stream, Stream); 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let (a, b) = UnixStream::pair().unwrap();
    [(near.into(), far.into()), (a.into(), b.into())]
}

#[tokio::test]
async fn recv_queue_is_empty_once_all_is_read() {
    for (mut near, mut far) in pairs().await {
        assert_eq!(far.recv_queue_empty(), Some(true));
        near.write_all(b"request").await.unwrap();
        let mut got = [0; 4];
        assert_eq!((far.read(&mut got).await.unwrap(), far.recv_queue_empty()), (4, Some(false)));
        assert_eq!((far.read(&mut got).await.unwrap(), far.recv_queue_empty()), (3, Some(true)));
        near.shutdown().await.unwrap();
        assert_eq!(far.read(&mut got).await.unwrap(), 0);
        assert_eq!(far.recv_queue_empty(), Some(true));
    }
}

#[tokio::test]
async fn writes_of_each_kind_arrive_in_order() {
    for (mut near, mut far) in pairs().await {
        let head = poll_fn(|cx| far.poll_write_more(cx, b"re")).await.unwrap();
        let rest = far.write_vectored(&[IoSlice::new(b"spo"), IoSlice::new(b"ns")]).await;
        assert_eq!((head, rest.unwrap(), far.write(b"e").await.unwrap()), (2, 5, 1));
        far.shutdown().await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "response");
    }
}

#[tokio::test]
async fn write_resumes_when_a_full_socket_has_room() {
    const LEN: usize = 8 << 20;
    for (mut near, mut far) in pairs().await {
        let answer: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
        let (mut got, write) = (Vec::new(), async {
            far.write_all(&answer).await.unwrap();
            drop(far);
        });
        let (read, ()) = tokio::join!(near.read_to_end(&mut got), write);
        assert!(read.unwrap() == LEN && got == answer);
    }
}

#[tokio::test]
async fn send_file_resumes_when_a_full_socket_has_room() {
    const LEN: usize = 32 << 20;
    let mut file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
    file.write_all(&content).unwrap();
    let file = Arc::new(file);
    for (mut far, mut near) in pairs().await {
        let mut slice = FileSlice::new(file.clone(), 0, LEN as u64);
        let mut got = Vec::new();
        let mut waited = 0;
        while !slice.is_empty() {
            let send = poll_fn(|cx| Poll::Ready(near.poll_send_file(cx, &slice)));
            match send.await {
                Poll::Ready(n) => slice.advance(n.unwrap() as u64),
                Poll::Pending => {
                    waited += 1;
                    // The task is woken once the peer has read enough.
                    let sent = poll_fn(|cx| near.poll_send_file(cx, &slice));
                    let read = async { while far.read_buf(&mut got).await.unwrap() > 0 {} };
                    tokio::select! {
                        n = sent => slice.advance(n.unwrap() as u64),
                        () = read => unreachable!("the socket is not closed"),
                    }
                }
            }
        }
        assert!(waited > 0, "the socket was never full");
        drop(near);
        far.read_to_end(&mut got).await.unwrap();
        assert!(got == content);
    }
}

#[tokio::test]
async fn pending_read_is_woken_while_a_write_is_pending() {
    for (mut near, mut far) in pairs().await {
        let answer = vec![0; 32 << 20]; // more than the kernel buffers
        let (mut got, mut sent, mut polls) = ([0; 8], 0, 0);
        let both = poll_fn(|cx| {
            polls += 1;
            let mut buf = ReadBuf::new(&mut got);
            if Pin::new(&mut far).poll_read(cx, &mut buf)?.is_ready() {
                return Poll::Ready(io::Result::Ok(buf.filled().len()));
            }
            while let Poll::Ready(n) = Pin::new(&mut far).poll_write(cx, &answer[sent..])? {
                sent += n;
            }
            Poll::Pending
        });
        let ping = async {
            tokio::task::yield_now().await;
            near.write_all(b"ping").await.unwrap();
            std::future::pending::<()>().await;
        };
        let n = tokio::select! {
            n = tokio::time::timeout(Duration::from_secs(60), both) => n.expect("the read was not woken"),
            () = ping => unreachable!("the writer never ends"),
        };
        assert_eq!(n.unwrap(), 4);
    }
}
