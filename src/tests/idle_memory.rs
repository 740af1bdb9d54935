//! The memory of idle connections.

#![allow(
    unsafe_code,
    clippy::disallowed_types,
    reason = "an allocator that counts, and blocking clients"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use tower::{Layer, service_fn};

use super::support::{start, within};
use crate::{Body, Request, Response, Router, layer::RescueLayer};

/// The system's allocator. It counts the bytes that each thread has allocated and not freed.
struct Counting;

thread_local! {
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

fn add(bytes: usize, sign: isize) {
    // It is destroyed before the thread has freed everything.
    let _ = BYTES.try_with(|count| count.set(count.get() + sign * bytes.cast_signed()));
}

// SAFETY: every call is passed on to the system's allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size(), 1);
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size(), 1);
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(layout.size(), -1);
        add(size, 1);
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(layout.size(), -1);
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Returns connections that are idle after a request, opened by another thread.
async fn idle_connections(n: usize, addr: SocketAddr) -> Vec<TcpStream> {
    let connect = move |_| {
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        client
    };
    within(tokio::task::spawn_blocking(move || (0..n).map(connect).collect())).await.unwrap()
}

#[tokio::test]
async fn idle_connection_takes_less_than_900_bytes() {
    const CONNECTIONS: usize = 100; // both ends have a descriptor, of which 1,024 are a usual limit
    let hello = service_fn(async |_: Request| {
        Ok::<_, std::convert::Infallible>(Response::new(Body::from("hello")))
    });
    let server = start(RescueLayer::new().layer(Router::new().route("/", hello))).await;
    // With these, buffers and pools of the thread are allocated, and vectors have grown.
    let first = idle_connections(140, server.addr).await;
    let before = BYTES.get();
    let idle = idle_connections(CONNECTIONS, server.addr).await;
    let each = (BYTES.get() - before) / CONNECTIONS.cast_signed();
    assert!((300..900).contains(&each), "{each} bytes");
    drop((first, idle));
    server.stop().await;
    assert!(BYTES.get() < before, "the connections have freed their memory");
}
