//! Simulation of random pools over a year: workers fail, panic, hang, grow old, are reloaded and scaled, and the
//! supervisor's invariants hold.
//!
//! A year has some hundred events: bursts of requests within milliseconds, separated by days without requests, or in
//! which the machine is suspended, so that all deadlines pass at once.

use std::thread;

use super::*;

const SEEDS: u64 = 10_000;
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Longer than the longest pause of the back-off.
const GIVE_UP_PAUSE: Duration = Duration::from_secs(5);
/// Maximum number of events in a burst.
const BURST: u64 = 25;

/// xorshift64: the same numbers on every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Returns a duration from zero to far beyond every timeout; short ones are more likely.
    fn duration(&mut self) -> Duration {
        let max = [2, 30, 200, 3_000][self.below(4) as usize];
        Duration::from_millis(self.below(max))
    }
}

/// A process that several workers share.
struct Process {
    number: u64,
    generation: u64,
    workers: Vec<WorkerId>,
    /// How many workers may still join it.
    free: usize,
}

/// A worker that has not exited, and the time of its next step.
struct Worker {
    id: WorkerId,
    life: Life,
    at: Instant,
}

/// The activity of a worker.
#[derive(Debug)]
enum Life {
    Builds { fails: bool },
    Idles,
    Works { since: Instant, allowance: Allowance, crashes: bool, is_aborted: bool },
    Exits,
}

/// The number of events in some worlds.
#[derive(Default)]
struct Totals {
    started: u64,
    abandoned: u64,
    recycled: u64,
    reloads: u64,
    rollbacks: u64,
    added: u64,
    removed: u64,
    reforks: u64,
}

struct World {
    rng: Rng,
    now: Instant,
    config: Config,
    supervisor: Supervisor,
    alive: Vec<Worker>,
    abandoned: Vec<WorkerId>,
    /// The number of workers that share a process.
    lanes: usize,
    processes: Vec<Process>,
    next_process: u64,
    /// The generation of the last reload, and the number of its workers that were started.
    reload: (u64, usize),
    /// The process that workers are forked from.
    mould: Option<WorkerId>,
    totals: Totals,
    /// No request arrives before this time.
    quiet_until: Instant,
    is_closed: bool,
    is_drained: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let now = Instant::now();
        let workers = 1 + rng.below(3) as usize;
        let config = Config {
            workers,
            scale: Scale {
                max: if rng.one_in(2) { workers + rng.below(4) as usize } else { 0 },
                spare: rng.below(3) as usize,
                idle_timeout: Duration::from_millis(rng.below(500)),
            },
            max_abandoned: rng.below(3) as usize,
            request_timeout: Duration::from_millis(1 + rng.below(100)),
            grace: Duration::from_millis(rng.below(20)),
            backoff: Backoff::new(Duration::from_millis(10), Duration::from_millis(300)),
            start_timeout: rng.one_in(2).then(|| Duration::from_millis(1 + rng.below(200))),
            give_up: rng
                .one_in(2)
                .then(|| GiveUp { failures: 1 + rng.below(4) as u32, pause: GIVE_UP_PAUSE }),
            stable_after: (rng.below(3) == 0).then(|| Duration::from_millis(rng.below(200))),
            recycle: Recycle {
                requests: rng.one_in(2).then(|| 1 + rng.below(8)),
                jitter: rng.below(3),
                age: rng.one_in(3).then(|| DAY * (20 + rng.below(200) as u32)),
                memory: rng.one_in(3).then_some(100),
                at_a_time: rng.below(3) as usize,
                seed,
            },
            refork_after: rng.one_in(3).then(|| 1 + rng.below(6)),
            drain_timeout: rng.one_in(3).then(|| Duration::from_millis(rng.below(100))),
        };
        // A process with threads cannot be forked.
        let lanes = if config.refork_after.is_some() { 1 } else { 1 + rng.below(3) as usize };
        let supervisor = Supervisor::new(config, now);
        Self {
            rng,
            now,
            config,
            supervisor,
            alive: Vec::new(),
            abandoned: Vec::new(),
            lanes,
            processes: Vec::new(),
            next_process: 0,
            reload: (0, 0),
            mould: None,
            totals: Totals::default(),
            quiet_until: now,
            is_closed: false,
            is_drained: false,
        }
    }

    fn most(&self) -> usize {
        self.config.workers.max(self.config.scale.max)
    }

    fn run(&mut self) {
        let end = self.now + YEAR;
        self.act();
        while self.now < end {
            for _ in 0..self.rng.below(BURST) {
                self.step();
            }
            self.pause();
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
        for _ in 0..10 * (self.most() + self.config.max_abandoned) {
            self.step();
        }
        assert!(self.supervisor.is_ended(), "{:?}", self.supervisor);
        assert!(self.alive.is_empty());
        self.totals.abandoned += self.supervisor.abandoned_total();
        self.totals.recycled += self.supervisor.recycled_total();
        self.totals.reforks += self.supervisor.reforks();
    }

    /// Skips days, without requests or with the machine suspended.
    fn pause(&mut self) {
        let pause = DAY * (1 + self.rng.below(90) as u32);
        if self.rng.one_in(3) {
            self.now += pause;
            return self.act();
        }
        self.quiet_until = self.now + pause;
        for worker in &mut self.alive {
            if matches!(worker.life, Life::Idles) {
                worker.at = self.quiet_until;
            }
        }
        while self.now < self.quiet_until {
            self.step();
        }
        self.check_processes();
    }

    /// Advances to the next event or deadline.
    fn step(&mut self) {
        let next = self.alive.iter().map(|w| (w.at, w.id.number)).min();
        match (next, self.supervisor.deadline()) {
            (Some((at, number)), deadline) if deadline.is_none_or(|d| at < d) => {
                self.now = self.now.max(at);
                self.advance(number);
            }
            (None, None) => self.now = self.now.max(self.quiet_until),
            (_, deadline) => self.now = deadline.unwrap_or(self.now),
        }
        if self.rng.one_in(40)
            && let Some(mould) = self.mould.take()
        {
            self.supervisor.on_mould_end(mould);
        }
        if self.rng.one_in(40) && self.supervisor.reload(self.rng.duration()) {
            self.totals.reloads += 1;
            self.reload = (self.supervisor.last_generation, 0);
        }
        self.act();
    }

    fn later(&mut self) -> Instant {
        self.now + self.rng.duration()
    }

    fn advance(&mut self, number: u64) {
        let index = self.alive.iter().position(|w| w.id.number == number).unwrap();
        let Worker { id, life, .. } = self.alive.swap_remove(index);
        let next = match life {
            Life::Builds { fails: true } | Life::Exits => return self.exit(id),
            Life::Builds { fails: false } => {
                let before = self.supervisor.ready();
                self.supervisor.on_ready(id, self.now);
                assert!(self.supervisor.ready() >= before, "a worker that is ready is no loss");
                Life::Idles
            }
            Life::Idles => match self.supervisor.claim(id) {
                // It asks again when its generation is ready.
                Claim::Wait => Life::Idles,
                Claim::Exit => return self.exit(id),
                // The queue of a drained pool is empty, and makes the worker exit.
                Claim::Take if self.is_drained || self.startup() == Startup::Failed => {
                    return self.exit(id);
                }
                Claim::Take => self.begin(id),
            },
            Life::Works { crashes, .. } => self.finish(id, crashes),
        };
        let mut at = self.later();
        if matches!(next, Life::Idles) {
            at = at.max(self.quiet_until);
        }
        self.alive.push(Worker { id, life: next, at });
    }

    fn startup(&self) -> Startup {
        self.supervisor.startup()
    }

    fn begin(&mut self, id: WorkerId) -> Life {
        let deadline = self.rng.one_in(2).then(|| self.later());
        let allowance = self.supervisor.on_begin(id, self.now, deadline);
        assert!(allowance.until <= self.now + self.config.request_timeout);
        let crashes = self.rng.one_in(4);
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
        self.abandoned.retain(|a| *a != id);
        for process in self.processes.iter_mut().filter(|p| p.workers.contains(&id)) {
            process.workers.retain(|worker| *worker != id);
            process.free = 0;
        }
        self.processes.retain(|process| !process.workers.is_empty());
        if self.supervisor.claim_mould(id) {
            assert_eq!(id.generation, self.supervisor.generation(), "it runs the current code");
            match self.rng.below(4) {
                0 => self.supervisor.on_mould_refused(id),
                1 => {} // it has ended
                _ if self.supervisor.on_mould_ready(id) => self.mould = Some(id),
                _ => panic!("a claimed mould is needed"),
            }
        }
        self.supervisor.on_exit(id, self.now);
    }

    /// Executes the actions that are due, then checks the invariants.
    fn act(&mut self) {
        let is_quiet = self.now < self.quiet_until;
        let queued = if is_quiet || self.rng.one_in(2) { 0 } else { self.rng.below(4) };
        self.supervisor.on_demand(queued as usize);
        for turn in 0.. {
            assert!(turn < 1000, "the supervisor has something to do without end");
            let (ready, used) = (self.supervisor.ready(), self.supervisor.used);
            let is_stopped = |state: &State| !matches!(state, State::Busy { .. });
            let may_be_blocked = self.supervisor.leaving.iter().any(is_stopped);
            let action = self.supervisor.poll(self.now);
            self.check_floor(ready, action);
            self.totals.added += self.supervisor.used.saturating_sub(used) as u64;
            self.totals.removed += used.saturating_sub(self.supervisor.used) as u64;
            if let Some(how) = self.supervisor.take_reloaded() {
                self.totals.rollbacks += u64::from(how != Reloaded::Ready);
                let is_complete =
                    self.reload.1 >= self.config.workers || self.config.start_timeout.is_some();
                let may_time_out = is_complete || may_be_blocked;
                assert!(how != Reloaded::TimedOut || may_time_out, "it did not start all workers");
            }
            let Some(action) = action else { break };
            match action {
                Action::Start(id) => self.start(id),
                Action::Abort(id) => self.abort(id),
                Action::Abandon(id) => self.abandon(id),
                Action::Stop(id) | Action::TimeOut(id) => self.stop(id),
            }
            self.check_bounds();
        }
        self.check_progress();
    }

    /// Checks that recycling, reloads and scaling do not lower the number of ready workers below the minimum.
    fn check_floor(&self, before: usize, action: Option<Action>) {
        let is_abandoned = matches!(action, Some(Action::Abandon(_)));
        let floor = before.min(self.config.workers);
        assert!(self.supervisor.ready() >= floor || is_abandoned, "{action:?}");
        assert!(self.supervisor.used >= self.config.workers);
    }

    fn start(&mut self, id: WorkerId) {
        assert_eq!(id.number, self.totals.started, "each number is used once, in order");
        assert!(!self.is_drained && self.startup() != Startup::Failed);
        self.totals.started += 1;
        self.reload.1 += usize::from(id.generation == self.reload.0);
        let fails =
            self.startup() != Startup::Pending && self.rng.one_in(3) || self.rng.one_in(200);
        if fails && self.rng.one_in(2) {
            return self.exit(id); // it could not even be spawned
        }
        if self.lanes > 1 {
            self.join(id);
        }
        let at = self.later();
        self.alive.push(Worker { id, life: Life::Builds { fails }, at });
    }

    /// Adds a worker to a process that is open, or to a new one.
    fn join(&mut self, id: WorkerId) {
        let is_open = |p: &&mut Process| {
            p.free > 0 && p.generation == id.generation && !self.supervisor.is_closing(p.number)
        };
        let number = match self.processes.iter_mut().find(is_open) {
            Some(open) => {
                open.free -= 1;
                open.workers.push(id);
                open.number
            }
            None => {
                let (number, generation) = (self.next_process, id.generation);
                let free = self.lanes - 1;
                self.processes.push(Process { number, generation, workers: vec![id], free });
                self.next_process += 1;
                number
            }
        };
        self.supervisor.on_joined(id, number);
    }

    /// Checks that no process is left to a part of its workers when there is nothing to do.
    fn check_processes(&self) {
        let is_idle = |worker: &Worker| matches!(worker.life, Life::Idles);
        let is_settled = self.supervisor.phase == Phase::Running
            && self.alive.iter().all(is_idle)
            && self.alive.len() == self.supervisor.ready()
            && self.supervisor.renewal_deadline().is_none()
            && self.supervisor.reload.is_none();
        if !is_settled || self.config.recycle.at_a_time == 0 || self.is_closed {
            return;
        }
        assert!(self.processes.iter().all(|p| !self.supervisor.is_closing(p.number)));
        let most = self.alive.len() / self.lanes + 1;
        assert!(self.processes.len() <= most, "{} for {}", self.processes.len(), self.alive.len());
    }

    fn worker(&mut self, id: WorkerId) -> &mut Worker {
        self.alive.iter_mut().find(|w| w.id == id).expect("it has not exited")
    }

    /// Returns whether a worker was replaced, so that the drain timeout applies to it.
    fn is_draining(&self, id: WorkerId) -> bool {
        self.config.drain_timeout.is_some() && self.supervisor.claim(id) == Claim::Exit
    }

    fn abort(&mut self, id: WorkerId) {
        let now = self.now;
        let gives_up = self.rng.one_in(2);
        let is_draining = self.is_draining(id);
        let worker = self.worker(id);
        let Life::Works { allowance, is_aborted, .. } = &mut worker.life else {
            panic!("{id:?} has no request to abort");
        };
        assert!(!*is_aborted && (allowance.until <= now || is_draining));
        *is_aborted = true;
        if gives_up {
            worker.at = now; // an application that awaits gives up by itself
        }
    }

    fn abandon(&mut self, id: WorkerId) {
        let Config { request_timeout, grace, .. } = self.config;
        let now = self.now;
        let is_draining = self.is_draining(id);
        match &self.worker(id).life {
            Life::Works { since, is_aborted, .. } => {
                assert!(*is_aborted, "its caller was answered first");
                assert!(now >= *since + request_timeout + grace || is_draining);
            }
            Life::Exits => {}
            other => panic!("{id:?} was abandoned and does this: {other:?}"),
        }
        assert!(!self.abandoned.contains(&id));
        self.abandoned.push(id);
    }

    fn stop(&mut self, id: WorkerId) {
        let at = self.now + Duration::from_millis(self.rng.below(20));
        let worker = self.worker(id);
        // No request is lost by recycling, reloads and scaling.
        let life = &worker.life;
        assert!(matches!(life, Life::Builds { .. } | Life::Idles), "{life:?}");
        (worker.life, worker.at) = (Life::Exits, at);
    }

    fn check_bounds(&self) {
        assert!(self.abandoned.len() <= self.config.max_abandoned);
        assert!(self.alive.len() - self.abandoned.len() <= 3 * self.most());
        let slots = self.supervisor.slots.iter();
        let successors = slots.filter(|slot| slot.successor.state.id().is_some()).count();
        let bound = match self.supervisor.reload {
            Some(_) => self.most(),
            None => self.most().min(self.config.recycle.at_a_time),
        };
        assert!(successors <= bound, "{successors} successors");
        assert_eq!(self.supervisor.alive(), self.alive.len());
    }

    /// Checks that nothing is overdue, and that a slot without a worker gets one within the longest pause.
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

impl Totals {
    fn add(mut self, other: &Self) -> Self {
        self.started += other.started;
        self.abandoned += other.abandoned;
        self.recycled += other.recycled;
        self.reloads += other.reloads;
        self.rollbacks += other.rollbacks;
        self.added += other.added;
        self.removed += other.removed;
        self.reforks += other.reforks;
        self
    }
}

/// Runs the seeds with this remainder.
fn run_share(share: u64, of: u64) -> Totals {
    let mut totals = Totals::default();
    for seed in (1..=SEEDS).filter(|seed| seed % of == share) {
        let mut world = World::new(seed);
        world.run();
        totals = totals.add(&world.totals);
    }
    totals
}

#[test]
fn supervisor_keeps_its_invariants_over_a_year_of_random_workers() {
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let totals = thread::scope(|scope| {
        let start = |share| scope.spawn(move || run_share(share, threads));
        let shares: Vec<_> = (0..threads).map(start).collect();
        shares.into_iter().map(|s| s.join().unwrap()).fold(Totals::default(), |a, b| a.add(&b))
    });
    // Each kind of event occurs.
    let Totals { started, abandoned, recycled, reloads, rollbacks, added, removed, reforks } =
        totals;
    assert!(started > 5 * SEEDS && abandoned > SEEDS, "{started} {abandoned}");
    assert!(recycled > SEEDS / 2 && reloads > SEEDS, "{recycled} {reloads}");
    assert!(rollbacks > SEEDS / 10 && rollbacks < reloads, "{rollbacks} of {reloads}");
    assert!(reforks > SEEDS / 10, "{reforks}");
    assert!(added > SEEDS && removed > SEEDS / 2, "{added} {removed}");
}
