use std::{pin::Pin, task::Waker};

use http_body::{Body as _, Frame};

use super::{super::Body, *};
use crate::body::Segment;

fn poll(body: &mut Body) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn channel_carries_data_then_trailers_then_end() {
    let (tx, mut body) = Body::channel(Some(3));
    assert!(poll(&mut body).is_pending());
    tx.send("abc".into()).unwrap();
    assert_eq!(body.len(), Some(3));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    tx.finish(Some(trailers.clone()));
    let Poll::Ready(Some(Ok(frame))) = poll(&mut body) else { panic!() };
    assert_eq!(frame.into_data().unwrap(), "abc");
    assert_eq!(body.len(), Some(0));
    let Poll::Ready(Some(Ok(frame))) = poll(&mut body) else { panic!() };
    assert_eq!(frame.into_trailers().unwrap(), trailers);
    assert!(matches!(poll(&mut body), Poll::Ready(None)));
    assert!(body.is_end_stream());
}

#[test]
fn dropped_sender_is_error_and_not_end() {
    let (tx, mut body) = Body::channel(None);
    tx.send("ab".into()).unwrap();
    drop(tx);
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
    assert!(matches!(poll(&mut body), Poll::Ready(None)));
}

#[test]
fn sender_waits_at_bound_and_fails_after_reader_was_dropped() {
    let cx = Context::from_waker(Waker::noop());
    let (tx, mut body) = Body::channel(None);
    tx.send(Bytes::from(vec![0; CHANNEL_CAPACITY - MIN_PIECE_COST])).unwrap();
    assert!(tx.poll_ready(&cx).is_ready());
    tx.send("x".into()).unwrap(); // it counts for MIN_PIECE_COST
    assert!(tx.poll_ready(&cx).is_pending());
    assert!(tx.poll_demand(&cx).is_pending());
    assert!(poll(&mut body).is_ready());
    assert!(tx.poll_ready(&cx).is_ready());
    assert!(poll(&mut body).is_ready());
    assert!(poll(&mut body).is_pending());
    assert_eq!(tx.poll_demand(&cx), Poll::Ready(Ok(())));
    drop(body);
    assert_eq!(tx.poll_ready(&cx), Poll::Ready(Err(ReaderDropped)));
    assert_eq!(tx.send("y".into()), Err(ReaderDropped));
}

#[cfg(feature = "server")]
fn pipe(bytes: &[u8]) -> Pipe {
    use std::{io::Write, os::fd::OwnedFd};
    let (read, mut write) = std::io::pipe().unwrap();
    write.write_all(bytes).unwrap();
    let ends = (OwnedFd::from(read).into(), OwnedFd::from(write).into());
    let mut pipe = Pipe::new(ends, |_, _| {});
    pipe.record_filled(bytes.len());
    pipe
}

#[test]
#[cfg(feature = "server")]
fn pipe_counts_like_bytes_and_is_read_in_their_order() {
    let cx = &mut Context::from_waker(Waker::noop());
    let (tx, mut body) = Body::channel(Some(8 + CHANNEL_CAPACITY as u64));
    assert!(!tx.accepts_pipes());
    body.accept_sent_pipes();
    assert!(tx.accepts_pipes());
    tx.send("ab".into()).unwrap();
    tx.send_pipe(pipe(b"cdef")).unwrap();
    tx.send_pipe(pipe(&[b'x'; CHANNEL_CAPACITY])).unwrap();
    assert!(tx.poll_ready(cx).is_pending());
    tx.send("gh".into()).unwrap();
    tx.finish(None);
    let mut read = Vec::new();
    for piece in [2, 4] {
        let Poll::Ready(Some(Ok(frame))) = poll(&mut body) else { panic!() };
        assert_eq!(frame.data_ref().unwrap().len(), piece);
        read.extend_from_slice(frame.data_ref().unwrap());
    }
    assert_eq!(read, b"abcdef");
    assert_eq!(body.len(), Some(2 + CHANNEL_CAPACITY as u64));
    let Poll::Ready(Some(Ok(Segment::Pipe(mut large)))) = body.poll_segment(cx) else { panic!() };
    assert_eq!((large.len(), body.len()), (CHANNEL_CAPACITY, Some(2)));
    assert_eq!(large.read_next().unwrap().unwrap(), &[b'x'; CHANNEL_CAPACITY][..]);
    assert!(!body.is_end_stream());
    let Poll::Ready(Some(Ok(frame))) = poll(&mut body) else { panic!() };
    assert_eq!(frame.into_data().unwrap(), "gh");
    assert!(matches!(poll(&mut body), Poll::Ready(None)));
}

#[test]
#[cfg(feature = "server")]
fn channel_holds_two_pipes_however_few_bytes_are_in_them() {
    let cx = &mut Context::from_waker(Waker::noop());
    let (tx, body) = Body::channel(None);
    body.accept_sent_pipes();
    for is_full in [false, true] {
        tx.send_pipe(pipe(b"a")).unwrap();
        assert_eq!(tx.poll_ready(cx).is_pending(), is_full);
    }
}

#[test]
#[cfg(feature = "server")]
fn pipe_that_is_partly_read_counts_until_its_end() {
    use std::{io::Write, os::fd::OwnedFd};
    let len = 100_000;
    let (tx, mut body) = Body::channel(Some(len as u64));
    // One read returns what is in the pipe, which has room for 64 KiB.
    let (read, write) = std::io::pipe().unwrap();
    let ends = (OwnedFd::from(read).into(), OwnedFd::from(write).into());
    let mut pipe = Pipe::new(ends, |_, _| {});
    pipe.record_filled(len);
    (&pipe.ends().unwrap().1).write_all(&vec![b'a'; 60_000]).unwrap();
    tx.send_pipe(pipe).unwrap();
    tx.finish(None);
    let Poll::Ready(Some(Ok(frame))) = poll(&mut body) else { panic!() };
    assert_eq!(frame.data_ref().unwrap().len(), 60_000);
    assert!(!body.is_end_stream());
    assert_eq!(body.len(), Some(40_000));
    let cx = &mut Context::from_waker(Waker::noop());
    let Poll::Ready(Some(Ok(Segment::Pipe(rest)))) = body.poll_segment(cx) else { panic!() };
    assert_eq!((rest.len(), body.len()), (40_000, Some(0)));
    assert!(body.is_end_stream());
}
