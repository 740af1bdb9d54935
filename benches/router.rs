//! The cost of a `Router` per request, by the number of its routes.
//!
//! `cargo bench --no-default-features --features server --bench router`. Prints nanoseconds and
//! allocations per request, the minimum of many runs, since noise only adds time. The service
//! responds at once with an empty body; *alone* is the service without a router. The requests of a run
//! are spread over the whole table. They are built before the run, with one extension, as a server builds them.

#![allow(
    missing_docs,
    unsafe_code,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and counts allocations"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
    time::Instant,
};

use http::{Request, Response, header};
use tower::{Service, service_fn, util::ServiceFn};
use vestibule::{Body, Router};

const RUNS: usize = 100;
const REQUESTS: usize = 500;

/// The system's allocator, with a counter.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

type Answer = Ready<Result<Response<Body>, Infallible>>;
type Empty = ServiceFn<fn(Request<Body>) -> Answer>;

fn empty() -> Empty {
    service_fn(|request: Request<Body>| {
        black_box(&request);
        ready(Ok(Response::new(Body::empty())))
    })
}

/// A kind of route: how it is added, and the requests that match it.
struct Case {
    name: &'static str,
    add: fn(Router, usize) -> Router,
    uri: fn(usize) -> String,
    host: fn(usize) -> String,
}

const PLAIN_HOST: fn(usize) -> String = |_| "example.com".to_owned();

const CASES: [Case; 6] = [
    Case {
        name: "route",
        add: |router, i| router.route(&format!("/api/v1/resource-{i}"), empty()),
        uri: |i| format!("/api/v1/resource-{i}"),
        host: PLAIN_HOST,
    },
    Case {
        name: "{param}",
        add: |router, i| router.route(&format!("/api/v1/resource-{i}/{{id}}"), empty()),
        uri: |i| format!("/api/v1/resource-{i}/1234"),
        host: PLAIN_HOST,
    },
    Case {
        name: "prefix",
        add: |router, i| router.prefix(&format!("/api/v1/resource-{i}"), empty()),
        uri: |i| format!("/api/v1/resource-{i}/a/page?query=1"),
        host: PLAIN_HOST,
    },
    Case {
        name: "nest",
        add: |router, i| router.nest(&format!("/api/v1/resource-{i}"), empty()),
        uri: |i| format!("/api/v1/resource-{i}/a/page?query=1"),
        host: PLAIN_HOST,
    },
    Case {
        name: "host",
        add: |router, i| router.host(&format!("site-{i}.example.com"), empty()),
        uri: |_| "/a/page".to_owned(),
        host: |i| format!("site-{i}.example.com:8080"),
    },
    Case {
        name: "*.host",
        add: |router, i| router.host(&format!("*.site-{i}.example.com"), empty()),
        uri: |_| "/a/page".to_owned(),
        host: |i| format!("www.site-{i}.example.com:8080"),
    },
];

fn main() {
    let alone = measure(empty(), |i| request("/api/v1/resource", &i.to_string()));
    println!("alone: {:.0} ns, {:.1} allocations", alone.0, alone.1);
    println!(
        "{:<10} {:>8} {:>8} {:>12} {:>10}",
        "route", "number", "ns", "allocations", "build ms"
    );
    for case in &CASES {
        for n in [1, 100, 10_000] {
            let start = Instant::now();
            let router = (0..n).fold(Router::new(), case.add);
            let build = start.elapsed();
            let step = (n / 97).max(1);
            let (ns, allocations) = measure(router, |i| {
                let entry = i * step % n;
                request(&(case.uri)(entry), &(case.host)(entry))
            });
            println!(
                "{:<10} {n:>8} {ns:>8.0} {allocations:>12.1} {:>10.2}",
                case.name,
                build.as_secs_f64() * 1e3
            );
        }
    }
}

fn request(uri: &str, host: &str) -> Request<Body> {
    let mut request = Request::get(uri).header(header::HOST, host).body(Body::empty());
    // In a server the map of extensions exists already, since it contains the peer.
    request.as_mut().expect("a request").extensions_mut().insert(1_u8);
    request.expect("a request")
}

/// Returns nanoseconds and allocations per request.
fn measure<S>(mut service: S, request: impl Fn(usize) -> Request<Body>) -> (f64, f64)
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let mut best = (f64::MAX, 0.0);
    for _ in 0..RUNS {
        let requests: Vec<_> = (0..REQUESTS).map(&request).collect();
        let allocations = ALLOCATIONS.load(Ordering::Relaxed);
        let start = Instant::now();
        for request in requests {
            call(&mut service, request);
        }
        let ns = start.elapsed().as_nanos() as f64 / REQUESTS as f64;
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
        if ns < best.0 {
            best = (ns, allocations as f64 / REQUESTS as f64);
        }
    }
    best
}

fn call<S>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else {
        panic!("the response is not ready")
    };
    assert_eq!(response.status(), 200);
    black_box(&response);
}
