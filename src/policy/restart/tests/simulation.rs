//! Random small worlds: workers that fail, panic, hang, grow old and are reloaded, and a supervisor that
//! must cope.

use std::collections::HashMap;

use super::*;

const SEEDS: u64 = 10_000;
/// Far beyond the longest pause of the back-off.
const GIVE_UP_PAUSE: Duration = Duration::from_secs(5);
/// Events before the pool is closed.
const EVENTS: usize = 120;

/// xorshift64: the same numbers on every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// From zero to far beyond every timeout of the world, short ones more often.
    fn duration(&mut self) -> Duration {
        let max = [2, 30, 200, 3_000][self.below(4) as usize];
        Duration::from_millis(self.below(max))
    }
}

/// What a worker does, until when.
#[derive(Debug, Clone, Copy)]
enum Life {
    Builds { fails: bool },
    Idles,
    Works { since: Instant, allowance: Allowance, crashes: bool, is_aborted: bool },
    Exits,
}

struct World {
    rng: Rng,
    now: Instant,
    config: Config,
    supervisor: Supervisor,
    /// Workers that have not exited, and when each does its next step.
    alive: HashMap<WorkerId, (Life, Instant)>,
    abandoned: Vec<WorkerId>,
    /// Numbers that were used.
    started: u64,
    reloads: u64,
    rollbacks: u64,
    is_closed: bool,
    is_drained: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let now = Instant::now();
        let config = Config {
            workers: 1 + rng.below(4) as usize,
            max_abandoned: rng.below(3) as usize,
            request_timeout: Duration::from_millis(1 + rng.below(100)),
            grace: Duration::from_millis(rng.below(20)),
            backoff: Backoff::new(Duration::from_millis(10), Duration::from_millis(300)),
            start_timeout: (rng.below(2) == 0).then(|| Duration::from_millis(1 + rng.below(200))),
            give_up: (rng.below(2) == 0)
                .then(|| GiveUp { failures: 1 + rng.below(4) as u32, pause: GIVE_UP_PAUSE }),
            stable_after: (rng.below(3) == 0).then(|| Duration::from_millis(rng.below(200))),
            recycle: Recycle {
                requests: (rng.below(2) == 0).then(|| 1 + rng.below(8)),
                jitter: rng.below(3),
                age: (rng.below(3) == 0).then(|| Duration::from_millis(50 + rng.below(3_000))),
                memory: (rng.below(3) == 0).then_some(100),
                at_a_time: rng.below(3) as usize,
                seed,
            },
        };
        let supervisor = Supervisor::new(config, now);
        Self {
            rng,
            now,
            config,
            supervisor,
            alive: HashMap::new(),
            abandoned: Vec::new(),
            started: 0,
            reloads: 0,
            rollbacks: 0,
            is_closed: false,
            is_drained: false,
        }
    }

    fn run(&mut self) {
        self.act();
        for _ in 0..EVENTS {
            self.step();
        }
        self.is_closed = true;
        self.supervisor.close(self.now);
        self.act();
        for _ in 0..self.rng.below(20) {
            self.step();
        }
        self.is_drained = true;
        self.supervisor.on_drained();
        self.act();
        // Each worker has at most a request, its end and its exit ahead of it.
        for _ in 0..10 * (self.config.workers + self.config.max_abandoned) {
            self.step();
        }
        assert!(self.supervisor.is_ended(), "{:?} {:?}", self.supervisor, self.alive);
        assert!(self.alive.is_empty());
    }

    /// Goes on to the next event or deadline.
    fn step(&mut self) {
        let next = self.alive.iter().map(|(id, (_, at))| (*at, *id)).min_by_key(|(at, id)| {
            (*at, id.number) // a hash map has an order of its own on every run
        });
        let deadline = self.supervisor.deadline();
        match next {
            Some((at, id)) if deadline.is_none_or(|d| at < d) => {
                self.now = self.now.max(at);
                self.advance(id);
            }
            _ => self.now = deadline.unwrap_or(self.now),
        }
        if self.rng.below(40) == 0 && self.supervisor.reload(self.now, self.rng.duration()) {
            self.reloads += 1;
        }
        self.act();
    }

    fn later(&mut self) -> Instant {
        self.now + self.rng.duration()
    }

    fn advance(&mut self, id: WorkerId) {
        let (life, _) = self.alive[&id];
        let next = match life {
            Life::Builds { fails: true } | Life::Exits => return self.exit(id),
            Life::Builds { fails: false } => {
                let before = self.supervisor.ready();
                self.supervisor.on_ready(id, self.now);
                assert!(self.supervisor.ready() >= before, "a worker that is ready is no loss");
                Life::Idles
            }
            // It asks again when its generation is ready.
            Life::Idles if self.supervisor.claim(id) == Claim::Wait => Life::Idles,
            Life::Idles if self.supervisor.claim(id) == Claim::Exit => return self.exit(id),
            // The queue of a drained pool has nothing for it, and tells it to end.
            Life::Idles if self.is_drained || self.startup() == Startup::Failed => {
                return self.exit(id);
            }
            Life::Idles => self.begin(id),
            Life::Works { crashes, .. } => self.finish(id, crashes),
        };
        let at = self.later();
        self.alive.insert(id, (next, at));
    }

    fn startup(&self) -> Startup {
        self.supervisor.startup()
    }

    fn begin(&mut self, id: WorkerId) -> Life {
        let deadline = (self.rng.below(2) == 0).then(|| self.later());
        let allowance = self.supervisor.on_begin(id, self.now, deadline);
        assert!(allowance.until <= self.now + self.config.request_timeout);
        let crashes = self.rng.below(4) == 0;
        Life::Works { since: self.now, allowance, crashes, is_aborted: false }
    }

    fn finish(&mut self, id: WorkerId, crashes: bool) -> Life {
        self.supervisor.on_memory(id, self.rng.below(110));
        let has_slot = self.supervisor.claim(id) == Claim::Take;
        let stays = self.supervisor.on_done(id, crashes);
        assert_eq!(stays, !crashes && has_slot);
        assert!(!(has_slot && self.abandoned.contains(&id)));
        if stays { Life::Idles } else { Life::Exits }
    }

    fn exit(&mut self, id: WorkerId) {
        self.alive.remove(&id);
        self.abandoned.retain(|a| *a != id);
        self.supervisor.on_exit(id, self.now);
    }

    /// Carries out what is due, then checks what must hold at every moment.
    fn act(&mut self) {
        let mut turns = 0;
        loop {
            let ready = self.supervisor.ready();
            let Some(action) = self.supervisor.poll(self.now) else { break };
            // The floor: what the supervisor wants of itself costs no ready worker.
            let is_abandoned = matches!(action, Action::Abandon(_));
            assert!(self.supervisor.ready() >= ready || is_abandoned, "{action:?}");
            if let Some(how) = self.supervisor.take_reloaded() {
                self.rollbacks += u64::from(how != Reloaded::Ready);
            }
            match action {
                Action::Start(id) => self.start(id),
                Action::Abort(id) => self.abort(id),
                Action::Abandon(id) => self.abandon(id),
                Action::Stop(id) | Action::TimeOut(id) => self.stop(id),
            }
            self.check_bounds();
            turns += 1;
            assert!(turns < 1000, "the supervisor has something to do without end");
        }
        self.check_progress();
    }

    fn start(&mut self, id: WorkerId) {
        assert_eq!(id.number, self.started, "each number is used once, in order");
        assert!(!self.is_drained && self.startup() != Startup::Failed);
        self.started += 1;
        let fails = self.startup() != Startup::Pending && self.rng.below(3) == 0
            || self.rng.below(200) == 0;
        let at = self.later();
        self.alive.insert(id, (Life::Builds { fails }, at));
        if fails && self.rng.below(2) == 0 {
            self.exit(id); // it could not even be spawned
        }
    }

    fn abort(&mut self, id: WorkerId) {
        let Some((Life::Works { allowance, is_aborted, .. }, at)) = self.alive.get_mut(&id) else {
            panic!("{id:?} has no request to abort");
        };
        assert!(!*is_aborted && allowance.until <= self.now);
        *is_aborted = true;
        if self.rng.below(2) == 0 {
            *at = self.now; // an application that awaits gives up by itself
        }
    }

    fn abandon(&mut self, id: WorkerId) {
        let (life, _) = self.alive.get(&id).expect("a worker that has exited is not abandoned");
        let Config { request_timeout, grace, .. } = self.config;
        match life {
            Life::Works { since, is_aborted, .. } => {
                assert!(*is_aborted, "its caller was answered first");
                assert!(self.now >= *since + request_timeout + grace);
            }
            Life::Exits => {}
            other => panic!("{id:?} was abandoned and does this: {other:?}"),
        }
        assert!(!self.abandoned.contains(&id));
        self.abandoned.push(id);
    }

    fn stop(&mut self, id: WorkerId) {
        let (life, at) = self.alive.get_mut(&id).expect("a worker that has exited is not stopped");
        // No request is lost by what the supervisor wants of itself.
        assert!(matches!(life, Life::Builds { .. } | Life::Idles), "{life:?}");
        *life = Life::Exits;
        *at = self.now + Duration::from_millis(self.rng.below(20));
    }

    fn check_bounds(&self) {
        let Config { workers, max_abandoned, .. } = self.config;
        assert!(self.abandoned.len() <= max_abandoned);
        assert!(self.alive.len() - self.abandoned.len() <= 2 * workers);
        assert_eq!(self.supervisor.alive(), self.alive.len());
    }

    /// Nothing is due any more, and a slot without a worker gets one within the longest pause.
    fn check_progress(&self) {
        self.check_bounds();
        let deadline = self.supervisor.deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "a deadline that has passed");
        let stopped = self.is_drained || self.startup() == Startup::Failed;
        if self.alive.len() - self.abandoned.len() < self.config.workers && !stopped {
            let at = deadline.expect("a missing worker will be started");
            let is_given_up = self.config.give_up.is_some();
            let longest = if is_given_up { GIVE_UP_PAUSE } else { Duration::from_millis(300) };
            assert!(at <= self.now + longest);
        }
    }
}

#[test]
fn supervisor_keeps_its_invariants_with_random_workers() {
    let (mut started, mut abandoned, mut recycled, mut reloads, mut rollbacks) = (0, 0, 0, 0, 0);
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        world.run();
        started += world.started;
        abandoned += world.supervisor.abandoned_total();
        recycled += world.supervisor.recycled_total();
        reloads += world.reloads;
        rollbacks += world.rollbacks;
    }
    // The worlds are worth something: workers were restarted, abandoned, recycled and reloaded.
    assert!(started > 5 * SEEDS && abandoned > SEEDS, "{started} {abandoned}");
    assert!(recycled > SEEDS / 2 && reloads > SEEDS, "{recycled} {reloads}");
    assert!(rollbacks > SEEDS / 10 && rollbacks < reloads, "{rollbacks} of {reloads}");
}
