use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use http::uri::Scheme;
use http_body_util::BodyExt;
use tokio::{
    io::DuplexStream,
    sync::oneshot,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    Body, Request, Response,
    conn::h2::client::{Connection, handshake},
    error::Kind,
};

const BODY_TIMEOUT: Duration = Duration::from_secs(60);

type Server = h2::server::Connection<DuplexStream, Bytes>;

/// A connection to a server of the `h2` crate, in one process.
async fn connect() -> (Connection, Server) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let limits = Limits { body_timeout: BODY_TIMEOUT, ..Limits::default() };
    let (connection, driver) = handshake(near, Scheme::HTTP, Arc::new(limits)).await.unwrap();
    tokio::spawn(driver); // sends the preface
    (connection, h2::server::handshake(far).await.unwrap())
}

/// Sends an upload, and returns its response, whose head comes before the end of the upload.
async fn upload(connection: Connection, body: Body) -> Response {
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    connection.exchange(request).await.unwrap()
}

/// Answers a request at once, reads its body if `reads`, and ends the response `after` the end of the body.
async fn answer(mut server: Server, reads: bool, after: Duration) {
    let (request, mut respond) = server.accept().await.unwrap().unwrap();
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    let mut response = respond.send_response(http::Response::new(()), false).unwrap();
    let mut body = request.into_body();
    while reads && let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    tokio::time::sleep(after).await;
    let _ = response.send_data(Bytes::from_static(b"end"), true); // the client may have left
}

#[tokio::test(start_paused = true)]
async fn response_may_wait_for_the_end_of_a_long_upload() {
    for pause in [Duration::from_secs(20), Duration::from_secs(200)] {
        let (connection, server) = connect().await;
        let (tx, body) = Body::channel(None);
        tokio::spawn(answer(server, true, BODY_TIMEOUT / 2));
        let response = upload(connection, body).await;
        tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(pause).await;
                tx.send(Bytes::from_static(b"message")).unwrap();
            }
            tx.finish(None);
        });
        let body = response.into_body().collect().await.expect("the server waits for the client");
        assert_eq!(body.to_bytes(), "end");
    }
}

#[tokio::test(start_paused = true)]
async fn response_that_continues_does_not_time_out_with_an_unread_upload() {
    let (connection, mut server) = connect().await;
    tokio::spawn(async move {
        let (_request, mut respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let mut response = respond.send_response(http::Response::new(()), false).unwrap();
        for i in 1..=10 {
            tokio::time::sleep(BODY_TIMEOUT / 2).await;
            response.send_data(Bytes::from_static(b"x"), i == 10).unwrap();
        }
    });
    let response = upload(connection, Body::from(vec![0; 4 << 20])).await;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "x".repeat(10));
}

#[tokio::test(start_paused = true)]
async fn server_that_is_silent_after_an_upload_or_stops_reading_times_out() {
    let silence = Duration::from_secs(3_600);
    for (reads, len) in [(true, 1), (false, 4 << 20)] {
        let (connection, server) = connect().await;
        let (tx, body) = Body::channel(None);
        tokio::spawn(answer(server, reads, silence));
        let response = upload(connection, body).await;
        tokio::spawn(async move {
            tokio::time::sleep(10 * BODY_TIMEOUT).await;
            let _ = tx.send(Bytes::from(vec![0; len]));
            tx.finish(None);
        });
        let began = Instant::now();
        let error = response.into_body().collect().await.unwrap_err();
        assert_eq!(crate::Error::find(&*error).unwrap().kind(), Kind::Timeout);
        assert_eq!(began.elapsed().as_secs(), (11 * BODY_TIMEOUT).as_secs());
    }
}

#[tokio::test(start_paused = true)]
async fn driven_response_sends_its_upload_without_being_read() {
    const LEN: usize = 4 << 20;
    let (connection, mut server) = connect().await;
    let (read, is_read) = oneshot::channel();
    tokio::spawn(async move {
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let mut response = respond.send_response(http::Response::new(()), false).unwrap();
        response.send_data(vec![0; LEN].into(), true).unwrap();
        let mut body = request.into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
        read.send(()).unwrap();
    });
    let mut body = upload(connection, Body::from(vec![0; LEN])).await.into_body();
    let mut is_read = pin!(is_read);
    let driven = poll_fn(|cx| {
        body.drive(cx);
        is_read.as_mut().poll(cx)
    });
    timeout(BODY_TIMEOUT, driven).await.expect("the upload stops").unwrap();
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), LEN);
}
