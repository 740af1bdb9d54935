//! Random clients with identities of their own, at the same time: none gets the response to another one unless the origin
//! permits that.

use super::{model::Random, *};

/// The default number of seeds. `VESTIBULE_CACHE_SEEDS` sets another one.
const SEEDS: u64 = 200;

const STEPS: usize = 60;

/// The values of `Cache-Control`, and whether other clients may get a response without validation.
const CONTROLS: [(&str, bool); 9] = [
    ("", false),
    ("no-cache", false),
    ("max-age=0", false),
    ("max-age=9, no-cache", false),
    ("max-age=9, s-maxage=0", false),
    ("private, max-age=9", false),
    ("max-age=3", true),
    ("max-age=3, must-revalidate", true),
    ("max-age=0, stale-while-revalidate=3", true),
];

/// The present response of the origin to a path.
#[derive(Debug, Clone, Copy)]
struct State {
    version: u64,
    control: (&'static str, bool),
    has_vary: bool,
    fails: bool,
    /// Whether its content comes a second after its head.
    is_slow: bool,
}

impl State {
    fn random(random: &mut Random, version: u64) -> Self {
        Self {
            version,
            control: CONTROLS[random.below(CONTROLS.len() as u64) as usize],
            has_vary: random.chance(20),
            fails: random.chance(10),
            is_slow: random.chance(50),
        }
    }

    /// Answers a client by name: with a 304 if it has the present page. A page that is not shared is that of this client.
    fn answer(self, request: &Request) -> Result<Response, BoxError> {
        if self.fails {
            return Err("the origin is down".into());
        }
        let client = request.headers()["cookie"].to_str().unwrap();
        let (control, is_shared) = self.control;
        let page = format!("{client} {is_shared}");
        let owner = if is_shared { "all" } else { client };
        let etag = format!("\"{}-{owner}\"", self.version);
        let mut fields = vec![("etag", &*etag), ("x-for", &*page)];
        if !control.is_empty() {
            fields.push(("cache-control", control));
        }
        if self.has_vary {
            fields.push(("vary", "cookie"));
        }
        if request.headers().get("if-none-match").is_some_and(|known| *known == *etag) {
            fields.push(("status", "304"));
            return Ok(response(&fields, ""));
        }
        if !self.is_slow {
            return Ok(response(&fields, page.clone()));
        }
        let (sender, body) = Body::channel(None);
        let response = response(&fields, body);
        tokio::spawn(async move {
            tokio::time::sleep(SEC).await;
            let _ = sender.send(page.into());
            sender.finish(None);
        });
        Ok(response)
    }
}

/// Returns whether a response to one client, or a page, may go to another one.
fn may_get(client: &str, page: &str) -> bool {
    let (of, is_shared) = page.split_once(' ').unwrap();
    of == client || is_shared == "true"
}

/// Sends a request of a client in a task of its own, and checks the response.
fn spawn(
    site: &Site,
    client: &'static str,
    request: Request,
    seed: u64,
) -> tokio::task::JoinHandle<()> {
    let response = site.clone().oneshot(request);
    tokio::spawn(async move {
        let Ok(response) = response.await else { return };
        let latest = response.headers()["x-for"].to_str().unwrap().to_owned();
        assert!(may_get(client, &latest), "seed {seed}: {client} gets the response to {latest}");
        if response.headers().contains_key("vary") {
            assert!(
                latest.starts_with(client),
                "seed {seed}: {client} gets the variant of {latest}"
            );
        }
        let page = text(response).await;
        assert!(may_get(client, &page), "seed {seed}: {client} gets the page of {page}");
    })
}

/// Returns how many requests have shared a fetch.
async fn run(seed: u64) -> u64 {
    let mut random = Random(seed);
    let states: Vec<_> = (0..2).map(|_| State::random(&mut random, 0)).collect();
    let states = Arc::new(Mutex::new(states));
    let current = states.clone();
    let origin = Origin::new(move |request, _| {
        let path: usize = request.uri().path()[1..].parse().unwrap();
        let state = current.lock().unwrap()[path];
        state.answer(request)
    });
    let origin = origin.delayed(Duration::from_secs(random.below(3)));
    let layer = CacheLayer::builder().hit_for_miss(2 * SEC).fill_timeout(2 * SEC).build();
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    let mut requests = Vec::new();
    for version in 1..=STEPS as u64 {
        let path = random.below(2) as usize;
        match random.below(20) {
            0..12 => {
                let client = ["a", "b", "c"][random.below(3) as usize];
                let mut fields = vec![("cookie", client)];
                if random.chance(10) {
                    fields.push(("authorization", client));
                }
                if random.chance(10) {
                    fields.push(("cache-control", "no-store"));
                }
                let request = get(&format!("/{path}"), &fields);
                requests.push(spawn(&site, client, request, seed));
            }
            12..16 => tokio::time::sleep(SEC * random.below(4) as u32 / 2).await,
            16..19 => {
                let next = State::random(&mut random, version);
                states.lock().unwrap()[path] = next;
            }
            _ => {
                let key = Key::new("http", "site.example", &format!("/{path}"), None).unwrap();
                cache.delete(&key, if random.chance(50) { Purge::Soft } else { Purge::Hard });
            }
        }
    }
    for request in requests {
        request.await.unwrap();
    }
    cache.stats().collapsed
}

#[tokio::test(start_paused = true)]
async fn response_that_is_not_shareable_reaches_no_other_identity() {
    let seeds = std::env::var("VESTIBULE_CACHE_SEEDS").ok().and_then(|n| n.parse().ok());
    let mut collapsed = 0;
    for seed in 0..seeds.unwrap_or(SEEDS) {
        collapsed += run(seed).await;
    }
    assert!(collapsed > 0, "some responses are shared");
}
