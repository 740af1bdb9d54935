//! Simulation of `Retry` over a balancer in paused time: servers that fail in several ways, limits, a queue, and an
//! operator who changes the set.

use std::{cell::Cell, sync::atomic::AtomicBool};

use http_body_util::BodyExt;
use tokio::time::{Instant, sleep, sleep_until};

use super::*;
use crate::{
    peer::Deadline,
    policy::{
        backoff::Backoff,
        pick::{LeastOutstanding, PowerOfTwoChoices},
    },
};

const SEEDS: u64 = 300;
const REQUESTS: usize = 150;
const ATTEMPTS: usize = 3;
/// Requests in flight at a server.
const LIMIT: usize = 4;
const MS: Duration = Duration::from_millis(1);
const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

const OPTIONS: HealthOptions = HealthOptions::new()
    .consecutive_failures(3)
    .ejection(Backoff::new(Duration::from_millis(10), Duration::from_millis(80)))
    .max_retry_after(Duration::from_millis(50))
    .max_ejected(90);

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Refuses,
    BreaksOff,
    Hangs,
    IsSlow,
    /// Answers 503 with `Retry-After`.
    IsBusy,
    Truncates,
}

struct Server {
    key: &'static str,
    fault: Fault,
    /// The fault is there in every other period of this length, until `well_from`.
    period: Duration,
    begin: Instant,
    well_from: Instant,
    in_flight: std::sync::atomic::AtomicUsize,
    /// Whether an operator keeps requests away from it.
    is_out: AtomicBool,
}

/// Counts a request at its server until the end of the response.
struct AtServer(Arc<Server>);

impl Drop for AtServer {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The servers that have had a request.
#[derive(Clone, Default)]
struct Tried(Arc<Mutex<Vec<&'static str>>>);

/// xorshift64*.
struct Random(Cell<u64>);

impl Random {
    fn below(&self, n: u64) -> u64 {
        let mut bits = self.0.get();
        bits ^= bits >> 12;
        bits ^= bits << 25;
        bits ^= bits >> 27;
        self.0.set(bits);
        (bits.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

impl Server {
    fn new(key: &'static str, fault_percent: u64, random: &Random) -> Self {
        let faults = [
            Fault::Refuses,
            Fault::BreaksOff,
            Fault::Hangs,
            Fault::IsSlow,
            Fault::IsBusy,
            Fault::Truncates,
        ];
        let is_faulty = random.below(100) < fault_percent;
        let fault = if is_faulty { faults[random.below(6) as usize] } else { Fault::None };
        let (begin, period) = (Instant::now(), MS * (1 + random.below(150) as u32));
        let well_from = begin + MS * random.below(300) as u32;
        let (in_flight, is_out) = Default::default();
        Self { key, fault, period, begin, well_from, in_flight, is_out }
    }

    fn fault(&self) -> Fault {
        let now = Instant::now();
        let periods = (now - self.begin).as_millis() / self.period.as_millis();
        if now < self.well_from && periods.is_multiple_of(2) { self.fault } else { Fault::None }
    }

    async fn serve(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Body>, AttemptError> {
        let fault = self.fault();
        {
            let mut tried = request.extensions().get::<Tried>().unwrap().0.lock().unwrap();
            assert!(!tried.contains(&self.key), "{tried:?} has {} twice", self.key);
            tried.push(self.key);
        }
        assert!(!self.is_out.load(Relaxed), "an operator has taken {} out", self.key);
        assert!(self.in_flight.fetch_add(1, Relaxed) < LIMIT, "{} is over its limit", self.key);
        let at_server = AtServer(self);
        let fail = |kind, delivery, request| {
            Err(AttemptError::new(kind, delivery, "simulated").with_request(request))
        };
        match fault {
            Fault::Refuses => {
                return fail(AttemptErrorKind::Unreachable, Delivery::NotSent, request);
            }
            Fault::BreaksOff => {
                sleep(MS).await;
                return fail(AttemptErrorKind::ConnectionLost, Delivery::MaybeSent, request);
            }
            Fault::Hangs => {
                sleep_until(request.extensions().get::<Deadline>().unwrap().0.into()).await;
                return fail(AttemptErrorKind::Timeout, Delivery::MaybeSent, request);
            }
            Fault::IsSlow => sleep(8 * MS).await,
            Fault::None | Fault::IsBusy | Fault::Truncates => sleep(MS).await,
        }
        let (sender, body) = Body::channel(None);
        tokio::spawn(async move {
            sleep(2 * MS).await;
            if fault != Fault::Truncates {
                sender.finish(None);
            }
        });
        let mut response = Response::new(body.with_guard(at_server));
        if fault == Fault::IsBusy {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
        }
        Ok(response)
    }
}

type Simulated = Balance<ErasedService, Arc<dyn Pick>>;

struct Run {
    servers: Vec<Arc<Server>>,
    /// All endpoints, also those that are not in the set.
    endpoints: Vec<Endpoint<ErasedService>>,
    balance: Simulated,
    random: Random,
}

impl Run {
    fn new(seed: u64) -> Self {
        let random = Random(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        let (count, fault_percent) = (2 + random.below(7) as usize, random.below(101));
        let server = |&key| Arc::new(Server::new(key, fault_percent, &random));
        let servers: Vec<_> = KEYS[..count].iter().map(server).collect();
        let endpoint = |server: &Arc<Server>| {
            let at = server.clone();
            let service = service_fn(move |request: Request<Body>| at.clone().serve(request));
            Endpoint::new(server.key, ErasedService::new(service))
                .limits(EndpointLimits::new().in_flight(LIMIT).pending(LIMIT - 1))
        };
        let endpoints: Vec<_> = servers.iter().map(endpoint).collect();
        let policy: Arc<dyn Pick> = match seed % 4 {
            0 => Arc::new(RoundRobin::new()),
            1 => Arc::new(LeastOutstanding::new()),
            2 => Arc::new(PowerOfTwoChoices::with_seed(seed)),
            _ => Arc::new(PeakEwma::with_seed(seed)),
        };
        let panic_below = if random.below(2) == 0 { 0 } else { 40 };
        let balance = BalanceBuilder::new()
            .health(OPTIONS.panic_below(panic_below))
            .queue(QueueOptions::new(1000).timeout(Duration::from_secs(1)))
            .build(endpoints.clone(), policy);
        Self { servers, endpoints, balance, random }
    }

    async fn run(self) {
        let mut calls = Vec::new();
        for _ in 0..REQUESTS {
            sleep(MS * self.random.below(4) as u32).await;
            if self.random.below(10) == 0 {
                self.operate();
            }
            calls.push(tokio::task::spawn_local(send(self.balance.clone())));
            for status in self.balance.status() {
                assert!(status.pending <= status.in_flight && status.in_flight <= LIMIT);
            }
        }
        for call in calls {
            // It may fail, but `send` has checked why.
            let ended = tokio::time::timeout(Duration::from_secs(30), call).await;
            let (_result, _attempts) = ended.expect("it ends").unwrap();
        }
        self.check_end().await;
    }

    /// Ejects, drains or removes a server, or puts it back.
    fn operate(&self) {
        let index = self.random.below(self.servers.len() as u64) as usize;
        let (server, endpoint) = (&self.servers[index], &self.endpoints[index]);
        if server.is_out.fetch_not(Relaxed) {
            if self.balance.endpoint(server.key).is_none() {
                self.balance.insert(endpoint.clone());
            }
            endpoint.handle().restore();
            return;
        }
        match self.random.below(3) {
            0 => endpoint.handle().eject(Duration::MAX),
            1 => endpoint.handle().drain(),
            _ => drop(self.balance.remove(server.key)),
        }
    }

    async fn check_end(self) {
        assert_eq!(self.balance.queue_stats().waiting, 0);
        for endpoint in &self.endpoints {
            tokio::time::timeout(MS, endpoint.handle().idle()).await.expect("it is idle");
            assert_eq!(endpoint.handle().status(endpoint.place()).pending, 0);
        }
        self.servers.iter().for_each(|server| assert_eq!(server.in_flight.load(Relaxed), 0));
        // All faults and ejections have an end. After it every request is answered.
        for (server, endpoint) in self.servers.iter().zip(&self.endpoints) {
            server.is_out.store(false, Relaxed);
            if self.balance.endpoint(server.key).is_none() {
                self.balance.insert(endpoint.clone());
            }
            endpoint.handle().set_limits(EndpointLimits::new());
            let is_taken_out =
                matches!(endpoint.handle().phase(), Phase::Out { .. } | Phase::Draining);
            if is_taken_out {
                endpoint.handle().restore();
            }
        }
        sleep(Duration::from_secs(1)).await;
        for endpoint in &self.endpoints {
            assert!(endpoint.handle().is_available(), "an ejection ends, and no probe is lost");
        }
        for _ in 0..10 * self.servers.len() {
            let (result, tried) = send(self.balance.clone()).await;
            assert_eq!((result, tried), (Ok(StatusCode::OK), 1));
        }
    }
}

/// Sends a request. Returns the status, or whether the response was incomplete or there was none, and the attempts.
async fn send(balance: Simulated) -> (Result<StatusCode, &'static str>, usize) {
    let (tried, mut request) = (Tried::default(), request());
    request.extensions_mut().insert(tried.clone());
    let retry = RetryLayer::new().attempts(ATTEMPTS).without_budget().attempt_timeout(20 * MS);
    let result = retry.layer(balance.clone()).oneshot(request).await;
    let tried = tried.0.lock().unwrap().clone();
    let result = match result {
        Ok(response) => {
            let status = response.status();
            let body = response.into_body().collect().await;
            body.map(|_| status).map_err(|_| "incomplete")
        }
        Err(error) => {
            let is_left = |e: &Endpoint<ErasedService>| {
                let is_out = matches!(e.handle().phase(), Phase::Out { .. } | Phase::Draining);
                !is_out && !tried.contains(&e.key().as_str())
            };
            let is_overloaded = Error::find(&*error).is_some_and(Error::is_overloaded);
            // A timeout in the queue was an attempt too.
            let has_waited = balance.queue_stats().timed_out > 0;
            assert!(
                tried.len() == ATTEMPTS
                    || is_overloaded
                    || has_waited
                    || !balance.endpoints().iter().any(is_left),
                "failed after {tried:?}: {error}"
            );
            Err("failed")
        }
    };
    (result, tried.len())
}

#[test]
fn retries_over_a_balancer_keep_the_invariants() {
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().start_paused(true).build().unwrap();
            let tasks = tokio::task::LocalSet::new();
            runtime.block_on(tasks.run_until(async { Run::new(seed).run().await }));
        });
        assert!(run.is_ok(), "seed {seed}");
    }
}
