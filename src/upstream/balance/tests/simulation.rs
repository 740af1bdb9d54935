//! Simulation of `Retry` over a balancer in paused time: servers that fail in several ways, limits, a queue, outliers, and
//! an operator who changes the set. What occurs is counted: an invariant over something that never occurs says nothing.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{LazyLock, atomic::AtomicBool},
};

use http_body_util::BodyExt;
use tokio::time::{Instant, sleep, sleep_until};

use super::*;
use crate::{
    peer::Deadline,
    policy::{
        backoff::Backoff,
        pick::{First, LeastOutstanding, PowerOfTwoChoices, Tiers},
    },
};

/// The default number of seeds. `VESTIBULE_BALANCE_SEEDS` sets another one.
const SEEDS: u64 = 300;
const ATTEMPTS: usize = 3;
const MS: Duration = Duration::from_millis(1);

static KEYS: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..100).map(|index| index.to_string()).collect());

const OPTIONS: HealthOptions = HealthOptions::new()
    .consecutive_failures(3)
    .ejection(Backoff::new(Duration::from_millis(10), Duration::from_millis(80)))
    .max_retry_after(Duration::from_millis(50))
    .slow_start(Duration::from_millis(20))
    .outlier_success(60)
    .outlier_latency(3)
    .outlier_requests(4)
    .outlier_interval(Duration::from_millis(30))
    .max_ejected(90);

/// The size of a run.
#[derive(Clone, Copy)]
struct Setup {
    endpoints: usize,
    requests: usize,
    /// Requests at one time, on average, and the milliseconds between two times, at most.
    burst: u64,
    pause: u64,
    fault_percent: u64,
}

impl Setup {
    /// One run in ten has a hundred endpoints, and bursts of about as many requests as they can take.
    fn new(seed: u64, random: &Random) -> Self {
        if seed.is_multiple_of(10) {
            let fault_percent = if random.below(3) == 0 { 100 } else { 50 };
            return Self { endpoints: 100, requests: 1000, burst: 200, pause: 60, fault_percent };
        }
        let (endpoints, fault_percent) = (2 + random.below(7) as usize, random.below(101));
        Self { endpoints, requests: 150, burst: 1, pause: 4, fault_percent }
    }

    /// Returns the weight of a server. Of many, one in ten has so many requests that they can be compared with each other.
    fn weight(self, index: usize) -> u32 {
        if index % 10 == 9 { 10 } else { 1 + index as u32 % 3 }
    }

    /// Returns the requests in flight at a server.
    fn limit(self, index: usize) -> usize {
        match self.endpoints {
            100 if index % 10 == 9 => 10,
            100 => 2,
            _ => 4,
        }
    }
}

/// The number of each event.
type Events = BTreeMap<&'static str, u64>;

/// Events that occur in runs of any size.
const EXPECTED: [&str; 17] = [
    "answer",
    "half-open",
    "back-off",
    "busy",
    "ejected",
    "ejected again",
    "incomplete",
    "queue full",
    "lost",
    "outlier by latency",
    "outlier by success",
    "panic",
    "readmitted",
    "retried",
    "slow start",
    "waited",
    "waited too long",
];

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
    limit: usize,
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
    fn new(index: usize, setup: Setup, random: &Random) -> Self {
        let (key, limit) = (KEYS[index].as_str(), setup.limit(index));
        let faults = [
            Fault::Refuses,
            Fault::BreaksOff,
            Fault::Hangs,
            Fault::IsSlow,
            Fault::IsBusy,
            Fault::Truncates,
        ];
        let is_faulty = random.below(100) < setup.fault_percent;
        let fault = if is_faulty { faults[random.below(6) as usize] } else { Fault::None };
        let (begin, period) = (Instant::now(), MS * (1 + random.below(150) as u32));
        let well_from = begin + MS * random.below(300) as u32;
        let (in_flight, is_out) = Default::default();
        Self { key, fault, period, begin, well_from, limit, in_flight, is_out }
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
        assert!(
            self.in_flight.fetch_add(1, Relaxed) < self.limit,
            "{} is over its limit",
            self.key
        );
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
    setup: Setup,
    panic_below: usize,
    events: Events,
    /// The last phase of each endpoint.
    phases: HashMap<String, Phase>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let random = Random(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        let setup = Setup::new(seed, &random);
        let server = |index| Arc::new(Server::new(index, setup, &random));
        let servers: Vec<_> = (0..setup.endpoints).map(server).collect();
        let endpoint = |(index, server): (usize, &Arc<Server>)| {
            let at = server.clone();
            let service = service_fn(move |request: Request<Body>| at.clone().serve(request));
            Endpoint::new(server.key, ErasedService::new(service))
                .limits(EndpointLimits::new().in_flight(server.limit).pending(server.limit - 1))
                .weight(setup.weight(index))
                .tier(u8::from(index % 4 == 3))
        };
        let endpoints: Vec<_> = servers.iter().enumerate().map(endpoint).collect();
        // Of the runs with a hundred endpoints, too.
        let policy: Arc<dyn Pick> = match (seed + seed / 10) % 7 {
            0 => Arc::new(RoundRobin::new()),
            1 => Arc::new(LeastOutstanding::new()),
            2 => Arc::new(PowerOfTwoChoices::with_seed(seed)),
            3 => Arc::new(First::new()),
            4 => Arc::new(ConsistentHash::ring(RequestKey::path())),
            5 => Arc::new(Tiers::new(RoundRobin::new)),
            _ => Arc::new(PeakEwma::with_seed(seed)),
        };
        let panic_below = if random.below(2) == 0 { 0 } else { 60 };
        let (bound, timeout) =
            if random.below(4) == 0 { (setup.endpoints, 4 * MS) } else { (1000, 1000 * MS) };
        let balance = BalanceBuilder::new()
            .health(OPTIONS.panic_below(panic_below))
            .queue(QueueOptions::new(bound).timeout(timeout))
            .build(endpoints.clone(), policy);
        let (events, phases) = Default::default();
        let panic_below = panic_below.into();
        Self { servers, endpoints, balance, random, setup, panic_below, events, phases }
    }

    fn count(&mut self, event: &'static str, n: u64) {
        *self.events.entry(event).or_default() += n;
    }

    fn count_if(&mut self, occurs: bool, event: &'static str) {
        self.count(event, u64::from(occurs));
    }

    /// Checks the limits of all endpoints, and counts what has changed.
    fn observe(&mut self) {
        let statuses = self.balance.status();
        let is_in = |phase| !matches!(phase, Phase::Out { .. } | Phase::Draining);
        let is_healthy =
            |phase| matches!(phase, Phase::Ready | Phase::SlowStart { .. } | Phase::HalfOpen);
        let total = statuses.iter().filter(|status| is_in(status.phase)).count();
        let healthy = statuses.iter().filter(|status| is_healthy(status.phase)).count();
        self.count_if(healthy * 100 < total * self.panic_below, "panic");
        for status in statuses {
            assert!(status.pending <= status.in_flight);
            assert!(status.in_flight <= status.limits.max_in_flight());
            let key = status.key.as_str();
            let last = self.phases.insert(key.to_owned(), status.phase).unwrap_or(Phase::Ready);
            if last == status.phase {
                continue;
            }
            let was_ejected = matches!(last, Phase::Ejected { .. } | Phase::HalfOpen);
            match status.phase {
                Phase::Ejected { .. } if was_ejected => self.count("ejected again", 1),
                Phase::Ejected { .. } => {
                    self.count("ejected", 1);
                    let text = status.last_errors.first().map_or("", |error| &*error.text);
                    if text.starts_with("outlier") {
                        let is_by_latency = text.starts_with("outlier: 0 of");
                        self.count_if(is_by_latency, "outlier by latency");
                        self.count_if(!is_by_latency, "outlier by success");
                    }
                }
                Phase::BackingOff { .. } => self.count("back-off", 1),
                Phase::HalfOpen => self.count("half-open", 1),
                Phase::SlowStart { .. } | Phase::Ready => {
                    self.count_if(was_ejected, "readmitted");
                    self.count_if(status.phase != Phase::Ready, "slow start");
                }
                _ => {}
            }
        }
    }

    async fn run(mut self) -> Events {
        let mut calls = Vec::new();
        for _ in 0..self.setup.requests {
            if self.random.below(self.setup.burst) == 0 {
                for _ in 0..self.random.below(self.setup.pause) {
                    sleep(MS).await;
                    self.observe();
                }
            }
            if self.random.below(10) == 0 {
                self.operate();
            }
            let path = format!("/{}", self.random.below(50));
            calls.push(tokio::task::spawn_local(send(self.balance.clone(), path)));
        }
        for call in calls {
            // It may fail, but `send` has checked why.
            let ended = tokio::time::timeout(Duration::from_secs(30), call).await;
            let (result, attempts) = ended.expect("it ends").unwrap();
            self.count_if(attempts > 1, "retried");
            self.count(
                match result {
                    Ok(StatusCode::OK) => "answer",
                    Ok(_) => "busy",
                    Err(event) => event,
                },
                1,
            );
        }
        let queue = self.balance.queue_stats();
        self.count("waited", queue.admitted);
        self.count("queue full", queue.refused);
        self.count("waited too long", queue.timed_out);
        self.check_end().await;
        self.events
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

    async fn check_end(&self) {
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
            let (result, tried) = send(self.balance.clone(), "/".into()).await;
            assert_eq!((result, tried), (Ok(StatusCode::OK), 1));
        }
    }
}

/// Sends a request. Returns the status, or whether the response was incomplete or there was none, and the attempts.
async fn send(balance: Simulated, path: String) -> (Result<StatusCode, &'static str>, usize) {
    let (tried, mut request) = (Tried::default(), request());
    *request.uri_mut() = path.parse().unwrap();
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
            // A wait in the queue in vain was an attempt too.
            let queue = balance.queue_stats();
            let has_waited = queue.timed_out + queue.refused > 0;
            assert!(
                tried.len() == ATTEMPTS
                    || is_overloaded
                    || has_waited
                    || !balance.endpoints().iter().any(is_left),
                "failed after {tried:?}: {error}"
            );
            Err("lost")
        }
    };
    (result, tried.len())
}

#[test]
fn retries_over_a_balancer_keep_the_invariants() {
    let seeds = std::env::var("VESTIBULE_BALANCE_SEEDS").ok().and_then(|n| n.parse().ok());
    let (threads, seeds) = (2, seeds.unwrap_or(SEEDS));
    let simulate = |seed| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        let tasks = tokio::task::LocalSet::new();
        runtime.block_on(tasks.run_until(async { Run::new(seed).run().await }))
    };
    let run_share = move |thread: u64| {
        let mut all = [Events::new(), Events::new()];
        for seed in (thread..seeds).step_by(threads as usize) {
            let events = std::panic::catch_unwind(|| simulate(seed));
            let events = events.unwrap_or_else(|_| panic!("seed {seed}"));
            add(&mut all[usize::from(seed.is_multiple_of(10))], &events);
        }
        all
    };
    let all = std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads).map(|n| scope.spawn(move || run_share(n))).collect();
        let mut all = [Events::new(), Events::new()];
        for share in shares {
            let share = share.join().unwrap();
            all.iter_mut().zip(&share).for_each(|(all, share)| add(all, share));
        }
        all
    });
    for (events, endpoints) in all.iter().zip(["a few", "a hundred"]) {
        println!("{seeds} seeds, with {endpoints} endpoints: {events:?}");
        for event in EXPECTED {
            let n = events.get(event).copied().unwrap_or(0);
            assert!(n >= seeds / 100, "{event} is rare with {endpoints} endpoints: {events:?}");
        }
    }
}

fn add(all: &mut Events, events: &Events) {
    events.iter().for_each(|(event, n)| *all.entry(event).or_default() += n);
}
