//! Models of a body's channel: no wake-up is lost.

use std::{future::poll_fn, pin::pin};

use bytes::Bytes;
use http_body::Body as _;

use crate::{
    Body,
    body::{CHANNEL_CAPACITY, ReaderDropped},
    sync::model::{block_on, model, thread},
};

/// Reads a body. Returns the number of its bytes, and whether it ended without an error.
fn read(body: Body) -> (usize, bool) {
    let mut body = pin!(body);
    let mut len = 0;
    loop {
        match block_on(poll_fn(|cx| body.as_mut().poll_frame(cx))) {
            Some(Ok(frame)) => len += frame.into_data().unwrap().len(),
            Some(Err(_)) => return (len, false),
            None => return (len, true),
        }
    }
}

#[test]
fn reader_gets_all_that_was_sent_and_the_end() {
    model(|| {
        let (tx, body) = Body::channel(None);
        let reader = thread::spawn(move || read(body));
        tx.send("ab".into()).unwrap();
        tx.finish(None);
        assert_eq!(reader.join().unwrap(), (2, true));
    });
}

#[test]
fn dropped_sender_wakes_reader_with_error() {
    model(|| {
        let (tx, body) = Body::channel(None);
        let reader = thread::spawn(move || read(body));
        drop(tx);
        assert_eq!(reader.join().unwrap(), (0, false));
    });
}

#[test]
fn sender_at_the_bound_is_woken_by_reader() {
    model(|| {
        let (tx, body) = Body::channel(None);
        tx.send(Bytes::from_static(&[0; CHANNEL_CAPACITY])).unwrap();
        let reader = thread::spawn(move || read(body));
        block_on(tx.ready()).unwrap();
        tx.finish(None);
        assert_eq!(reader.join().unwrap(), (CHANNEL_CAPACITY, true));
    });
}

#[test]
fn sender_is_woken_by_demand_and_by_dropped_reader() {
    model(|| {
        let (tx, body) = Body::channel(None);
        let reader = thread::spawn(move || {
            let mut body = pin!(body);
            let frame = poll_fn(|cx| std::task::Poll::Ready(body.as_mut().poll_frame(cx)));
            block_on(frame).is_pending()
        });
        let wanted = block_on(poll_fn(|cx| tx.poll_demand(cx)));
        assert!(matches!(wanted, Ok(()) | Err(ReaderDropped)));
        block_on(poll_fn(|cx| tx.poll_closed(cx)));
        assert!(reader.join().unwrap());
    });
}
