//! Compares the cache with a simple reference, for random origins, times and clients.

use std::collections::HashMap;

use super::*;

/// The default number of seeds. `VESTIBULE_CACHE_SEEDS` sets another one.
const SEEDS: u64 = 200;

/// The steps of a seed.
const STEPS: usize = 60;

/// The current response of the origin. Times are in seconds.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    version: u64,
    max_age: Option<u64>,
    while_revalidate: u64,
    if_error: u64,
    must_revalidate: bool,
    no_cache: bool,
    no_store: bool,
    has_etag: bool,
    failure: Failure,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Failure {
    #[default]
    None,
    Unreachable,
    Overloaded,
}

impl State {
    fn control(&self) -> String {
        let mut text = Vec::new();
        text.extend(self.max_age.map(|n| format!("max-age={n}")));
        text.extend(
            (self.while_revalidate > 0)
                .then(|| format!("stale-while-revalidate={}", self.while_revalidate)),
        );
        text.extend((self.if_error > 0).then(|| format!("stale-if-error={}", self.if_error)));
        text.extend(self.must_revalidate.then(|| "must-revalidate".to_owned()));
        text.extend(self.no_cache.then(|| "no-cache".to_owned()));
        text.extend(self.no_store.then(|| "no-store".to_owned()));
        text.join(", ")
    }
}

/// A stored response of the reference.
#[derive(Debug, Clone, Copy)]
struct Record {
    state: State,
    version: u64,
    stored_at: u64,
    lifetime: u64,
}

/// A cache by the rules of RFC 9111 and RFC 5861, without their optimisations.
#[derive(Default)]
struct Reference {
    records: HashMap<(usize, usize), Record>,
    now: u64,
    fetches: usize,
}

impl Reference {
    /// The variant that a request selects. Even paths have only one.
    fn key(path: usize, variant: usize) -> (usize, usize) {
        (path, if path.is_multiple_of(2) { 0 } else { variant })
    }

    /// Returns the version that a client gets, or the status of a failure.
    fn get(&mut self, path: usize, variant: usize, origin: State) -> Result<u64, u16> {
        let key = Self::key(path, variant);
        let Some(record) = self.records.get(&key).copied() else { return self.fetch(key, origin) };
        let (state, age) = (record.state, self.now - record.stored_at);
        if !state.no_cache && age < record.lifetime {
            return Ok(record.version);
        }
        let stale = age.saturating_sub(record.lifetime);
        if !state.no_cache && !state.must_revalidate && stale < state.while_revalidate {
            let _ = self.fetch(key, origin);
            return Ok(record.version);
        }
        self.fetch(key, origin)
    }

    fn fetch(&mut self, key: (usize, usize), origin: State) -> Result<u64, u16> {
        self.fetches += 1;
        let record = self.records.get(&key).copied();
        if let Some(record) = record {
            let (state, stale) =
                (record.state, (self.now - record.stored_at).saturating_sub(record.lifetime));
            let may_be_stale = !state.no_cache && !state.must_revalidate;
            let by_itself = may_be_stale && stale < state.if_error;
            // What was never fresh may be for one client alone.
            let was_fresh = state.max_age.is_some_and(|age| age > 0) || state.while_revalidate > 0;
            let may_be_shared = may_be_stale && was_fresh;
            let unreachable = may_be_shared && stale < STALE_IF_UNREACHABLE.as_secs();
            match origin.failure {
                Failure::Unreachable if by_itself || unreachable => return Ok(record.version),
                Failure::Overloaded if by_itself => return Ok(record.version),
                _ => {}
            }
        }
        match origin.failure {
            Failure::Unreachable => return Err(0),
            Failure::Overloaded => return Err(503),
            Failure::None => {}
        }
        let windows = if origin.must_revalidate || origin.no_cache {
            0
        } else {
            origin.while_revalidate.max(origin.if_error)
        };
        let is_useful =
            origin.has_etag || (!origin.no_cache && origin.max_age.unwrap_or(0) + windows > 0);
        if origin.no_store || !is_useful {
            self.records.remove(&key);
        } else {
            let lifetime = origin.max_age.unwrap_or(0);
            self.records.insert(
                key,
                Record { state: origin, version: origin.version, stored_at: self.now, lifetime },
            );
        }
        Ok(origin.version)
    }
}

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn state(&mut self, version: u64) -> State {
        let failure = match self.below(10) {
            0 => Failure::Unreachable,
            1 => Failure::Overloaded,
            _ => Failure::None,
        };
        State {
            version,
            max_age: if self.chance(90) { Some(self.below(20)) } else { None },
            while_revalidate: if self.chance(30) { self.below(20) } else { 0 },
            if_error: if self.chance(30) { self.below(40) } else { 0 },
            must_revalidate: self.chance(15),
            no_cache: self.chance(15),
            no_store: self.chance(10),
            has_etag: self.chance(50),
            failure,
        }
    }
}

/// Answers by the current state: 304 if the request has the current entity tag.
fn answer(request: &Request, state: State) -> Result<Response, BoxError> {
    match state.failure {
        Failure::Unreachable => return Err("the origin is unreachable".into()),
        Failure::Overloaded => return Ok(response(&[("status", "503")], "")),
        Failure::None => {}
    }
    let (control, etag) = (state.control(), format!("\"{}\"", state.version));
    let mut fields = vec![("cache-control", &*control)];
    if state.has_etag {
        fields.push(("etag", &etag));
    }
    let path: usize = request.uri().path()[1..].parse().unwrap();
    if !path.is_multiple_of(2) {
        fields.push(("vary", "x"));
    }
    let is_same =
        state.has_etag && request.headers().get("if-none-match").is_some_and(|v| *v == *etag);
    if is_same {
        fields.push(("status", "304"));
    }
    Ok(response(&fields, if is_same { String::new() } else { state.version.to_string() }))
}

async fn run(seed: u64) {
    let mut random = Random(seed);
    let state = Arc::new(Mutex::new(random.state(0)));
    let current = state.clone();
    let origin = Origin::new(move |request, _| answer(request, *current.lock().unwrap()));
    let layer = CacheLayer::builder().early_refresh(0.0).build();
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    let mut reference = Reference::default();
    let mut log = Vec::new();
    for version in 1..=STEPS as u64 {
        let (path, variant) = (random.below(3) as usize, random.below(2) as usize);
        let key = Key::new("http", "site.example", &format!("/{path}"), None).unwrap();
        match random.below(20) {
            0..12 => {
                let variant_name = variant.to_string();
                let request = get(&format!("/{path}"), &[("x", &variant_name)]);
                let got = match site.clone().oneshot(request).await {
                    Err(_) => Err(0),
                    Ok(response) if response.status() == StatusCode::OK => {
                        Ok(text(response).await.parse().unwrap())
                    }
                    Ok(response) => Err(response.status().as_u16()),
                };
                settle().await;
                let want = reference.get(path, variant, *state.lock().unwrap());
                log.push(format!("get {path} {variant}: {want:?}"));
                assert_eq!(got, want, "seed {seed}: {log:#?}");
                assert_eq!(origin.count(), reference.fetches, "seed {seed}: {log:#?}");
            }
            12..15 => {
                let seconds = random.below(15);
                tokio::time::advance(Duration::from_secs(seconds)).await;
                reference.now += seconds;
                log.push(format!("{seconds} seconds later"));
            }
            15..18 => {
                let mut next = random.state(version);
                if random.chance(50) {
                    next.version = state.lock().unwrap().version;
                }
                log.push(format!("{next:?}"));
                *state.lock().unwrap() = next;
            }
            18 => {
                cache.delete(&key, Purge::Hard);
                reference.records.retain(|(of, _), _| *of != path);
                log.push(format!("delete {path}"));
            }
            _ => {
                cache.delete(&key, Purge::Soft);
                let now = reference.now;
                for (_, record) in reference.records.iter_mut().filter(|((of, _), _)| *of == path) {
                    record.lifetime = record.lifetime.min(now - record.stored_at);
                }
                log.push(format!("expire {path}"));
            }
        }
    }
}

#[test]
fn cache_equals_the_reference_for_random_origins_and_clients() {
    let seeds = std::env::var("VESTIBULE_CACHE_SEEDS").ok().and_then(|n| n.parse().ok());
    for seed in 0..seeds.unwrap_or(SEEDS) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(seed));
    }
}
