use std::{future::poll_fn, io::Write, sync::Arc, task::Waker, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// Two ends of TCP, and of a Unix socket; the second one is accepted.
async fn pairs() -> [(Stream, Stream); 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let far = Stream::accepted(far.into_std().unwrap().into(), Kind::Tcp);
    let (a, b) = UnixStream::pair().unwrap();
    let b = Stream::accepted(b.into_std().unwrap().into(), Kind::Unix);
    [(near.into(), far), (a.into(), b)]
}

fn is_new(stream: &Stream) -> bool {
    matches!(stream.0, State::New(_))
}

#[tokio::test]
async fn who_asks_once_is_answered_before_the_runtime_knows_the_socket() {
    for (mut near, mut far) in pairs().await {
        near.write_all(b"request").await.unwrap();
        let mut got = [0; 16];
        assert_eq!(far.read(&mut got).await.unwrap(), 7);
        assert!(far.is_drained());
        let head = poll_fn(|cx| far.poll_write_more(cx, b"re")).await.unwrap();
        let rest = far.write_vectored(&[IoSlice::new(b"spo"), IoSlice::new(b"ns")]).await;
        assert_eq!((head, rest.unwrap(), far.write(b"e").await.unwrap()), (2, 5, 1));
        assert!(is_new(&far));
        far.shutdown().await.unwrap();
        drop(far);
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "response");
    }
}

#[tokio::test]
async fn who_has_to_be_waited_for_is_watched_from_then_on() {
    for (mut near, mut far) in pairs().await {
        let mut got = [0; 4];
        let later = async { near.write_all(b"request").await.unwrap() };
        let (n, ()) = tokio::join!(far.read(&mut got), later);
        assert_eq!((n.unwrap(), is_new(&far)), (4, false));
        assert_eq!((far.read(&mut got).await.unwrap(), &got[..3]), (3, &b"est"[..]));
        near.shutdown().await.unwrap();
        assert_eq!(far.read(&mut got).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_read_that_filled_its_buffer_is_followed_by_another_one() {
    for (mut near, mut far) in pairs().await {
        near.write_all(b"request").await.unwrap();
        let mut got = [0; 4];
        assert_eq!((far.read(&mut got).await.unwrap(), far.is_drained()), (4, false));
        assert_eq!((far.read(&mut got).await.unwrap(), far.is_drained()), (3, true));
        near.write_all(b"more").await.unwrap();
        assert!(!far.is_drained(), "what has come since the last read counts");
        assert_eq!((far.read(&mut got).await.unwrap(), is_new(&far)), (4, true));
        assert!(far.is_drained());
        drop(near);
        assert!(is_new(&far));
        assert_eq!(far.read(&mut got).await.unwrap(), 0, "the end, which is waited for");
        assert!(!is_new(&far));
    }
}

#[tokio::test]
async fn an_answer_that_fills_the_socket_goes_on_when_there_is_room_again() {
    const LEN: usize = 8 << 20;
    for (mut near, mut far) in pairs().await {
        let answer: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
        let (mut got, write) = (Vec::new(), async {
            far.write_all(&answer).await.unwrap();
            assert!(!is_new(&far), "it was never full");
            drop(far);
        });
        let (read, ()) = tokio::join!(near.read_to_end(&mut got), write);
        assert!(read.unwrap() == LEN && got == answer);
    }
}

#[tokio::test]
async fn a_file_that_fills_the_socket_goes_on_when_there_is_room_again() {
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
                    // Whoever waits is woken once the other end has read enough.
                    let sent = poll_fn(|cx| near.poll_send_file(cx, &slice));
                    let read = async { while far.read_buf(&mut got).await.unwrap() > 0 {} };
                    tokio::select! {
                        n = sent => slice.advance(n.unwrap() as u64),
                        () = read => unreachable!("it is not closed"),
                    }
                }
            }
        }
        assert!(waited > 0, "it never was full");
        drop(near);
        far.read_to_end(&mut got).await.unwrap();
        assert!(got == content);
    }
}

#[tokio::test]
async fn who_waits_to_read_is_woken_though_a_write_had_to_wait_then() {
    for (mut near, mut far) in pairs().await {
        let answer = vec![0; 32 << 20]; // more than anybody takes
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
        let told = async {
            tokio::task::yield_now().await;
            near.write_all(b"ping").await.unwrap();
            std::future::pending::<()>().await;
        };
        let n = tokio::select! {
            n = tokio::time::timeout(Duration::from_secs(20), both) => n.expect("it sleeps"),
            () = told => unreachable!("it does not end"),
        };
        assert_eq!(n.unwrap(), 4);
    }
}

#[test]
fn outside_of_a_runtime_what_has_to_wait_is_an_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (_near, mut far) in runtime.block_on(pairs()) {
        let mut cx = Context::from_waker(Waker::noop());
        let piece = vec![0; 1 << 20];
        let result = loop {
            match Pin::new(&mut far).poll_write(&mut cx, &piece) {
                Poll::Ready(Ok(_)) => {}
                result => break result,
            }
        };
        assert!(matches!(result, Poll::Ready(Err(_))), "{result:?}");
    }
}
