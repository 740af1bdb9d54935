//! `Gradient`: how many requests at a time a service can work on, told by its latency alone.

use std::time::Duration;

/// A service below this latency, 100 us, is taken to have it: what differs below is the machine's own
/// scheduling. It also keeps a clock that stood still from counting as infinitely fast.
const FLOOR: Duration = Duration::from_micros(100);

/// Samples that make a mean at least, so that no single one decides.
const ROUND: usize = 10;

/// How much a change of the limit is smoothed: a fifth of it at a time, as Netflix's Gradient2. So a
/// limit falls by 10 % in a round at most.
const SMOOTHING: f64 = 0.2;

/// How much each calm round weighs in the long-term latency: a tenth, so one that was unlucky moves
/// little, and 100 samples count.
const LONG_WEIGHT: f64 = 0.1;

/// The share of the limit below which the service is calm, and to which a probe lowers it.
const CALM: f64 = 0.25;

/// Crowded rounds before a probe: 64. A probe is about one round at a quarter of the limit, so it
/// costs 1 % of what the service can do.
const PROBE_EVERY: u32 = 64;

/// The same after probes that came to nothing: it doubles up to 4,096.
const PROBE_SELDOM: u32 = 64 * PROBE_EVERY;

/// How long a probe may stand still where no latency is known yet.
const PATIENCE: Duration = Duration::from_secs(10);

/// A limit on concurrency that follows latency, after Netflix's Gradient2.
///
/// A service that has more requests inside than it can work on lets them queue, and its latency
/// grows with their number. So after each round (as many samples as the limit) the limit is
/// multiplied by the *gradient* of long-term to short-term latency, and a few places for a
/// [`queue`](Self::queue) are added:
///
/// ```text
/// gradient = clamp(tolerance * long / short, 0.5, 1.0)
/// limit    = limit * gradient + queue                    (a fifth of the way each round)
/// ```
///
/// It settles where the queue makes up for the gradient: for a service that works on `c` requests
/// at `tolerance * c` and a few more.
///
/// What is not as in Gradient2, since an average over all latencies follows a lasting overload until
/// that seems normal: the long-term latency is that of a *calm* service, with a quarter of the limit
/// inside or less. Where it is never calm by itself, every 64 rounds a *probe* lowers the limit to
/// that quarter for 10 samples. It begins with a probe, to have a latency to go by.
///
/// It has no clock and knows no requests: it is [told](Self::on_sample) of each answer and
/// [asked](Self::limit) for the limit.
///
/// ```
/// use std::time::Duration;
/// use vestibule::policy::gradient::Gradient;
///
/// let mut gradient = Gradient::new().max(100);
/// for _ in 0..10_000 {
///     // However many are inside, it takes 5 ms: nothing queues.
///     gradient.on_sample(Duration::from_millis(5), gradient.limit());
/// }
/// assert!(gradient.limit() > 20);
/// ```
#[derive(Debug, Clone)]
pub struct Gradient {
    min: f64,
    max: f64,
    queue: f64,
    tolerance: f64,
    /// Between `min` and `max`, both at least 1.
    limit: f64,
    /// Mean latency while it was calm, in seconds, once there is one.
    long: Option<f64>,
    /// Mean latency of the last crowded round, in seconds.
    short: Option<f64>,
    calm_rounds: u32,
    calm: Round,
    crowded: Round,
    probe: Probe,
}

/// When the limit is lowered to learn the latency of a calm service.
#[derive(Debug, Clone)]
struct Probe {
    now: bool,
    /// Crowded rounds until the next one, and between two.
    due_in: u32,
    every: u32,
}

impl Gradient {
    /// Begins with 20 places, and moves between 1 and 1,000; with a queue of 4 and a tolerance of
    /// 1.5.
    pub fn new() -> Self {
        Self {
            min: 1.0,
            max: 1000.0,
            queue: 4.0,
            tolerance: 1.5,
            limit: 20.0,
            long: None,
            short: None,
            calm_rounds: 0,
            calm: Round::default(),
            crowded: Round::default(),
            probe: Probe { now: true, due_in: PROBE_EVERY, every: PROBE_EVERY },
        }
    }

    /// The limit to begin with, within the bounds as they are now; 20 if not set.
    #[must_use]
    pub fn initial(mut self, limit: usize) -> Self {
        self.limit = (limit as f64).clamp(self.min, self.max);
        self
    }

    /// The limit is never below, also while it probes; at least 1, which it is if not set. It raises
    /// the maximum if that is lower.
    #[must_use]
    pub fn min(mut self, limit: usize) -> Self {
        self.min = limit.max(1) as f64;
        self.max = self.max.max(self.min);
        self.limit = self.limit.max(self.min);
        self
    }

    /// The limit is never above; 1,000 if not set. It lowers the minimum if that is higher.
    #[must_use]
    pub fn max(mut self, limit: usize) -> Self {
        self.max = limit.max(1) as f64;
        self.min = self.min.min(self.max);
        self.limit = self.limit.min(self.max);
        self
    }

    /// How many requests may queue inside of the service, at least 1; 4 if not set. By so much the
    /// limit tries to grow; without, it could never grow.
    #[must_use]
    pub fn queue(mut self, len: usize) -> Self {
        self.queue = len.max(1) as f64;
        self
    }

    /// By which factor latency may rise above that of a calm service before the limit falls, at
    /// least 1; 1.5 if not set. More where latencies vary widely by themselves.
    #[must_use]
    pub fn tolerance(mut self, factor: f64) -> Self {
        // Written so that NaN is 1 as well.
        self.tolerance = if factor > 1.0 { factor } else { 1.0 };
        self
    }

    /// How many requests may be inside now.
    pub fn limit(&self) -> usize {
        let limit = if self.probe.now { (self.limit * CALM).max(self.min) } else { self.limit };
        limit as usize
    }

    /// The limit as it is outside of probes: what the service is thought to work on.
    pub fn settled(&self) -> usize {
        self.limit as usize
    }

    /// Told of an answer: how long it took, and how many requests were inside when it began, itself
    /// included.
    pub fn on_sample(&mut self, rtt: Duration, in_flight: usize) {
        let latency = rtt.max(FLOOR).as_secs_f64();
        let in_flight = in_flight as f64;
        if in_flight <= (self.limit * CALM).max(self.min) {
            if let Some(mean) = self.calm.add(latency, ROUND) {
                self.on_calm_round(mean);
            }
        } else if self.probe.now || in_flight < self.limit / 2.0 {
            // It began before the probe; or nobody asks for more than there is, and so nothing can
            // be said about having less or more.
        } else if let Some(mean) = self.crowded.add(latency, ROUND.max(self.limit as usize)) {
            self.on_crowded_round(mean);
        }
    }

    /// Told that requests wait for a place while none was answered for so long.
    ///
    /// A probe that stands still for several latencies is given up, and the next one is put off:
    /// what is inside stays for longer than an answer takes, as streams do.
    pub fn on_stall(&mut self, quiet: Duration) {
        let known = self.short.or(self.long).map(|s| Duration::try_from_secs_f64(s * 4.0));
        let patience = match known {
            Some(latency) => latency.unwrap_or(Duration::MAX).max(PATIENCE / 10),
            None => PATIENCE,
        };
        if self.probe.now && quiet >= patience {
            self.probe.every = (self.probe.every * 2).min(PROBE_SELDOM);
            self.end_probe();
        }
    }

    fn on_calm_round(&mut self, mean: f64) {
        // First the plain mean of all rounds, until that weighs a new one less.
        self.calm_rounds = self.calm_rounds.saturating_add(1);
        let weight = (1.0 / f64::from(self.calm_rounds)).max(LONG_WEIGHT);
        let long = self.long.unwrap_or(mean);
        self.long = Some(long + (mean - long) * weight);
        if self.probe.now {
            self.probe.every = PROBE_EVERY;
            self.end_probe();
        }
    }

    fn end_probe(&mut self) {
        self.probe.now = false;
        self.probe.due_in = self.probe.every;
        self.crowded = Round::default();
    }

    fn on_crowded_round(&mut self, short: f64) {
        self.short = Some(short);
        // Without a calm latency yet, the first crowded one has to do.
        let long = self.long.get_or_insert(short);
        let gradient = (self.tolerance * *long / short).clamp(0.5, 1.0);
        if *long > short * 2.0 {
            *long *= 0.95; // no service is faster when it is crowded: the calm was an unlucky one
        }
        let aim = self.limit * gradient + self.queue;
        let limit = self.limit + (aim - self.limit) * SMOOTHING;
        self.limit = limit.clamp(self.min, self.max);
        self.probe.due_in = self.probe.due_in.saturating_sub(1);
        self.probe.now = self.probe.due_in == 0;
        if self.probe.now {
            self.calm = Round::default();
        }
    }
}

impl Default for Gradient {
    fn default() -> Self {
        Self::new()
    }
}

/// Latencies on their way to a mean.
#[derive(Debug, Clone, Default)]
struct Round {
    sum: f64,
    n: usize,
}

impl Round {
    /// The mean, once there are `enough`; then it begins anew.
    fn add(&mut self, latency: f64, enough: usize) -> Option<f64> {
        self.sum += latency;
        self.n += 1;
        (self.n >= enough).then(|| {
            let Self { sum, n } = std::mem::take(self);
            sum / n as f64
        })
    }
}

#[cfg(test)]
mod tests;
