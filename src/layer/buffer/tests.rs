//! Bodies of random sizes through both buffers, over every limit, with stalls on both sides: the output
//! equals the input, and the budget is unused at the end.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::{sync::oneshot, task::yield_now};
use tower::{Layer, ServiceExt, service_fn};

use super::{RequestBufferLayer, ResponseBufferLayer};
use crate::{Body, BoxError, Budget, Error, Request, Response, budget::Usage, error::Kind};

/// A pseudo-random generator with the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        let mut bytes = BytesMut::with_capacity(len + 8);
        while bytes.len() < len {
            self.below(2);
            bytes.extend_from_slice(&self.0.to_ne_bytes());
        }
        bytes.truncate(len);
        bytes.freeze()
    }
}

/// A body of random pieces, with pauses.
fn trickle(data: Bytes, seed: u64) -> Body {
    let (tx, body) = Body::channel(None);
    tokio::spawn(async move {
        let (mut random, mut rest) = (Random(seed), data);
        while !rest.is_empty() {
            let n = (1 + random.below(60_000)).min(rest.len());
            if tx.ready().await.is_err() {
                return;
            }
            let _ = tx.send(rest.split_to(n));
            for _ in 0..random.below(3) {
                yield_now().await;
            }
        }
        tx.finish(None);
    });
    body
}

async fn read_slowly(mut body: Body, random: &mut Random) -> Result<Bytes, BoxError> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        all.extend_from_slice(frame?.data_ref().expect("there are no trailers"));
        for _ in 0..random.below(20) {
            yield_now().await;
        }
    }
    Ok(all.freeze())
}

fn is_free(budget: &Budget) -> bool {
    let Usage { memory, disk, .. } = budget.usage();
    memory == 0 && disk == 0
}

#[tokio::test]
async fn buffered_request_is_complete_in_memory_and_on_disk() {
    let budget = Budget::default();
    let mut random = Random(7);
    const MEMORY: usize = 100_000;
    let sizes = [1, MEMORY - 1, MEMORY, MEMORY + 1, 300_000, 999_999, 1_000_000];
    for (i, size) in sizes.into_iter().chain((0..20).map(|n| 1 + n * 49_999)).enumerate() {
        let data = random.bytes(size);
        let (want, seen) = (data.clone(), budget.clone());
        let app = service_fn(move |request: Request| {
            let (want, seen) = (want.clone(), seen.clone());
            async move {
                let body = request.into_body();
                let again = body.replay().expect("it can be replayed");
                assert_eq!(body.len(), Some(size as u64));
                if size > MEMORY {
                    assert_eq!(body.as_file().map(|f| f.len()), Some(size as u64));
                    assert_eq!((seen.usage().disk, seen.usage().memory), (size as u64, 0));
                } else {
                    assert_eq!(body.as_bytes().unwrap(), want);
                    assert_eq!(seen.usage().memory, size as u64);
                }
                for body in [body, again] {
                    assert!(body.collect().await?.to_bytes() == want);
                }
                Ok::<Response, BoxError>(Response::default())
            }
        });
        let layer = RequestBufferLayer::new().max_memory(MEMORY).budget(budget.clone());
        let body = trickle(data, i as u64 + 1);
        layer.max_body(1_000_000).layer(app).oneshot(Request::new(body)).await.unwrap();
        assert!(is_free(&budget), "{:?}", budget.usage());
    }
    assert!(budget.usage().spilled >= 15);
}

async fn echo(request: Request) -> Result<Response, BoxError> {
    Ok(Response::new(request.into_body()))
}

fn kind(error: &BoxError) -> Kind {
    Error::find(&**error).expect("one of ours").kind()
}

#[tokio::test]
async fn request_beyond_the_budget_is_refused_and_releases_its_share() {
    let cases = [
        // The disk budget is one byte too small; the directory does not exist.
        (Budget::builder().max_disk(199_999).build(), 200_000, Some(Kind::Overloaded)),
        (Budget::builder().max_disk(200_000).build(), 200_000, None),
        (Budget::builder().spill_dir("/nonexistent").build(), 200_000, Some(Kind::Overloaded)),
        (Budget::builder().spill_dir("/nonexistent").build(), 1000, None),
        // No memory at all; and none below the soft limit, so that the disk is used.
        (Budget::builder().hard_limit(0).build(), 1, Some(Kind::Overloaded)),
        (Budget::builder().soft_limit(0).build(), 1, None),
        (Budget::default(), (1 << 20) + 1, Some(Kind::TooLarge)),
    ];
    for (budget, size, refused) in cases {
        let data = Random(3).bytes(size);
        let layer = RequestBufferLayer::new().budget(budget.clone());
        let answer =
            layer.layer(service_fn(echo)).oneshot(Request::new(trickle(data.clone(), 1))).await;
        match refused {
            None => {
                let body = answer.unwrap().into_body();
                assert!(body.collect().await.unwrap().to_bytes() == data);
            }
            Some(want) => assert_eq!(kind(&answer.unwrap_err()), want, "{budget:?}"),
        }
        // A running write ends on its own, perhaps a little later.
        tokio::time::timeout(Duration::from_secs(60), async {
            while !is_free(&budget) {
                yield_now().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{budget:?}"));
        let told = u64::from(refused == Some(Kind::Overloaded));
        assert_eq!(budget.usage().refused, told, "{budget:?}");
    }
}

#[tokio::test]
async fn streamed_request_is_passed_on_at_once_and_still_bounded() {
    let layer = RequestBufferLayer::new()
        .max_body(10)
        .stream_if(|request| request.uri().path().starts_with("/up"));
    let (tx, body) = Body::channel(None);
    let request = |path: &str, body| Request::builder().uri(path).body(body).unwrap();
    let service = layer.layer(service_fn(echo));
    let answer = service.clone().oneshot(request("/up/1", body)).await.unwrap();
    let mut body = answer.into_body();
    for _ in 0..2 {
        tx.send("01234".into()).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "01234");
    }
    tx.send("x".into()).unwrap();
    assert_eq!(kind(&body.frame().await.unwrap().unwrap_err()), Kind::TooLarge);
    assert!(body.frame().await.is_none());
    let declared = request("/up/2", Body::channel(Some(11)).1);
    assert_eq!(kind(&service.clone().oneshot(declared).await.unwrap_err()), Kind::TooLarge);
    let fits = service.oneshot(request("/up/3", Body::channel(Some(10)).1)).await.unwrap();
    assert_eq!(fits.body().len(), Some(10));
}

/// A response with this body, through a buffer.
async fn through(layer: ResponseBufferLayer, body: Body) -> Body {
    let body = Arc::new(Mutex::new(Some(body)));
    let app = service_fn(move |_: Request| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, BoxError>(Response::new(body)) }
    });
    layer.layer(app).oneshot(Request::default()).await.unwrap().into_body()
}

#[tokio::test]
async fn buffered_response_is_complete_in_memory_and_on_disk() {
    let mut random = Random(11);
    for round in 0..60 {
        let budget = Budget::builder().soft_limit(random.below(3) as u64 * 100_000).build();
        let size = random.below(1_500_000);
        let data = random.bytes(size);
        let layer = ResponseBufferLayer::new()
            .max_memory(random.below(200_000))
            .max_disk(random.below(4) as u64 * 300_000)
            .budget(budget.clone());
        let body = match round % 3 {
            0 => Body::from(data.clone()),
            _ => trickle(data.clone(), round + 1),
        };
        let out = through(layer, body).await;
        let got = read_slowly(out, &mut random).await.unwrap();
        assert!(got == data, "{} of {} bytes", got.len(), data.len());
        drop(got);
        assert!(is_free(&budget), "{:?}", budget.usage());
    }
}

/// A body that reports when it is dropped.
struct Tells(Body, Option<oneshot::Sender<()>>);

impl http_body::Body for Tells {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

impl Drop for Tells {
    fn drop(&mut self) {
        let _ = self.1.take().expect("dropped once").send(());
    }
}

#[tokio::test]
async fn response_buffer_frees_service_of_slow_client_with_little_memory() {
    let budget = Budget::default();
    let data = Random(5).bytes(3 << 20);
    let (tx, dropped) = oneshot::channel();
    let body = Body::new(Tells(trickle(data.clone(), 5), Some(tx)));
    let layer = ResponseBufferLayer::new().budget(budget.clone());
    let out = through(layer, body).await;
    tokio::time::timeout(Duration::from_secs(60), dropped).await.expect("it is held").unwrap();
    // When all is written, the usage stays until the body is read.
    tokio::time::timeout(Duration::from_secs(60), async {
        while budget.usage().memory + budget.usage().disk != 3 << 20 {
            yield_now().await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{:?}", budget.usage()));
    let Usage { memory, memory_peak, .. } = budget.usage();
    assert!(memory < 400_000 && memory_peak <= 1 << 20, "{memory} {memory_peak}");
    for _ in 0..100 {
        yield_now().await;
    }
    assert_eq!(budget.usage().memory + budget.usage().disk, 3 << 20);
    assert!(out.collect().await.unwrap().to_bytes() == data);
    assert!(is_free(&budget));
}

#[tokio::test]
async fn full_or_failing_disk_breaks_no_response() {
    for budget in [
        Budget::builder().spill_dir("/nonexistent").build(),
        Budget::builder().max_disk(0).build(),
        Budget::builder().max_disk(150_000).build(),
        Budget::builder().soft_limit(0).max_disk(0).build(),
    ] {
        let mut random = Random(9);
        for size in [200_000, 1 << 20] {
            let data = random.bytes(size);
            let layer = ResponseBufferLayer::new().max_memory(50_000).budget(budget.clone());
            let out = through(layer, trickle(data.clone(), 2)).await;
            assert!(read_slowly(out, &mut random).await.unwrap() == data, "{budget:?}");
            assert!(is_free(&budget), "{budget:?}");
        }
        assert_eq!(budget.usage().refused, 0);
    }
}

#[tokio::test]
async fn exhausted_budget_refuses_request_before_service_is_called() {
    let budget = Budget::builder().hard_limit(10).build();
    let mut taken = budget.memory_lease();
    taken.set(10);
    let app = service_fn(async |_: Request| -> Result<Response, BoxError> { unreachable!() });
    let layer = ResponseBufferLayer::new().budget(budget.clone());
    let error = layer.layer(app).oneshot(Request::default()).await.unwrap_err();
    assert_eq!((kind(&error), budget.usage().refused), (Kind::Overloaded, 1));
    drop(taken);
    let out = layer.layer(service_fn(echo)).oneshot(Request::new("hi".into())).await.unwrap();
    assert_eq!(out.body().as_bytes().unwrap(), "hi");
}

#[tokio::test]
async fn disconnected_client_returns_its_share_of_the_budget() {
    let budget = Budget::default();
    for taken in [0, 1, 3, 8] {
        let layer = ResponseBufferLayer::new().max_memory(30_000).budget(budget.clone());
        let (tx, dropped) = oneshot::channel();
        let body = Body::new(Tells(trickle(Random(2).bytes(2 << 20), 4), Some(tx)));
        let mut out = through(layer, body).await;
        for _ in 0..taken {
            out.frame().await.unwrap().unwrap();
        }
        drop(out);
        tokio::time::timeout(Duration::from_secs(60), dropped).await.expect("it is held").unwrap();
        tokio::time::timeout(Duration::from_secs(60), async {
            while !is_free(&budget) {
                yield_now().await; // a batch that is being written holds its share
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn exhausted_memory_collects_no_batch_for_disk() {
    const PIECE: usize = 10_000;
    let body = || {
        let (tx, body) = Body::channel(None);
        (0..50).for_each(|_| tx.send(vec![b'x'; PIECE].into()).unwrap());
        tx.finish(None);
        body
    };
    let tight = || Budget::builder().soft_limit(0).hard_limit(PIECE as u64).build();

    let budget = tight();
    let requests = RequestBufferLayer::new().budget(budget.clone()).layer(service_fn(echo));
    let answer = requests.oneshot(Request::new(body())).await.unwrap();
    assert_eq!(answer.body().len(), Some(50 * PIECE as u64));
    assert_eq!(budget.usage().memory_peak, PIECE as u64);

    let budget = tight();
    let answer = through(ResponseBufferLayer::new().budget(budget.clone()), body()).await;
    assert_eq!(answer.collect().await.unwrap().to_bytes().len(), 50 * PIECE);
    assert_eq!(budget.usage().memory_peak, PIECE as u64);
}
