//! `Gradient`: an adaptive concurrency limit, estimated from latency alone.

use std::time::Duration;

/// Lower bound of measured latencies: 100 us. Below it the scheduling of the machine dominates. It also bounds the
/// gradient if the clock did not advance.
const MIN_LATENCY: Duration = Duration::from_micros(100);

/// Minimum number of samples of a mean: 10, so that a single sample has little weight.
const MIN_SAMPLES: usize = 10;

/// The share of a change that a round applies: 0.2, as in Netflix's Gradient2. So a limit falls by at most 10 % in a
/// round.
const SMOOTHING: f64 = 0.2;

/// The weight of an unloaded round in the long-term latency: 0.1. An outlier has little effect, and the mean is over
/// about 100 samples.
const MIN_WEIGHT: f64 = 0.1;

/// The share of the limit up to which the service counts as unloaded, and to which a probe lowers the limit.
const UNLOADED: f64 = 0.25;

/// Loaded rounds between two probes: 64. A probe takes about one round at a quarter of the limit, so it costs 1 % of
/// the throughput.
const PROBE_INTERVAL: u32 = 64;

/// Maximum number of loaded rounds between two probes: 4,096. The interval doubles with each probe without a result.
const MAX_PROBE_INTERVAL: u32 = 64 * PROBE_INTERVAL;

/// Maximum time of a probe without a sample while no latency is known: 10 s.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// A concurrency limit that adapts to latency, after Netflix's Gradient2.
///
/// A service queues requests beyond those that it can process in parallel, and its latency grows with their number. So
/// after each round (as many samples as the limit) the limit is multiplied by the *gradient*, the ratio of long-term to
/// short-term latency, and a few permits for a [`queue`](Self::queue) are added:
///
/// ```text
/// gradient = clamp(tolerance * long / short, 0.5, 1.0)
/// limit    = limit * gradient + queue                    (a fifth of the way each round)
/// ```
///
/// The limit converges where the queue balances the gradient: for a service that processes `c` requests in parallel,
/// slightly above `tolerance * c`.
///
/// The long-term latency differs from that of Gradient2, where an average over all latencies would follow a lasting
/// overload. Here it is the latency of the *unloaded* service, with at most a quarter of the limit in flight. If the
/// load never falls that low, a *probe* every 64 rounds lowers the limit to that quarter for 10 samples. The first
/// rounds are a probe too, to measure an initial latency.
///
/// It has no clock and no requests: [`on_sample`](Self::on_sample) takes the latency of each response, and
/// [`limit`](Self::limit) returns the limit.
///
/// ```
/// use std::time::Duration;
/// use vestibule::policy::gradient::Gradient;
///
/// let mut gradient = Gradient::new().max(100);
/// for _ in 0..10_000 {
///     // The latency is always 5 ms: the service does not queue.
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
    /// Mean latency of the unloaded service, in seconds.
    long: Option<f64>,
    /// Mean latency of the last loaded round, in seconds.
    short: Option<f64>,
    unloaded_rounds: u32,
    unloaded: Round,
    loaded: Round,
    probe: Probe,
}

/// The schedule of probes, which lower the limit to measure the latency of the unloaded service.
#[derive(Debug, Clone)]
struct Probe {
    is_active: bool,
    /// Loaded rounds until the next probe, and between two.
    due_in: u32,
    interval: u32,
}

impl Gradient {
    /// Creates a limit that starts at 20 and stays between 1 and 1,000, with a queue of 4 and a tolerance of 1.5.
    pub fn new() -> Self {
        Self {
            min: 1.0,
            max: 1000.0,
            queue: 4.0,
            tolerance: 1.5,
            limit: 20.0,
            long: None,
            short: None,
            unloaded_rounds: 0,
            unloaded: Round::default(),
            loaded: Round::default(),
            probe: Probe { is_active: true, due_in: PROBE_INTERVAL, interval: PROBE_INTERVAL },
        }
    }

    /// Sets the initial limit, clamped to the current bounds. Defaults to 20.
    #[must_use]
    pub fn initial(mut self, limit: usize) -> Self {
        self.limit = (limit as f64).clamp(self.min, self.max);
        self
    }

    /// Sets the lower bound of the limit, which also applies during probes. At least 1, the default. It raises a
    /// lower maximum.
    #[must_use]
    pub fn min(mut self, limit: usize) -> Self {
        self.min = limit.max(1) as f64;
        self.max = self.max.max(self.min);
        self.limit = self.limit.max(self.min);
        self
    }

    /// Sets the upper bound of the limit, at least 1. Defaults to 1,000. It lowers a higher minimum.
    #[must_use]
    pub fn max(mut self, limit: usize) -> Self {
        self.max = limit.max(1) as f64;
        self.min = self.min.min(self.max);
        self.limit = self.limit.min(self.max);
        self
    }

    /// Sets how many requests may queue inside of the service. At least 1; defaults to 4. The limit grows by this
    /// number in a round without added latency.
    #[must_use]
    pub fn queue(mut self, len: usize) -> Self {
        self.queue = len.max(1) as f64;
        self
    }

    /// Sets the factor by which the latency may exceed that of the unloaded service before the limit falls. At least 1;
    /// defaults to 1.5. Use a larger factor for a service whose latency varies much.
    #[must_use]
    pub fn tolerance(mut self, factor: f64) -> Self {
        // NaN becomes 1 too.
        self.tolerance = if factor > 1.0 { factor } else { 1.0 };
        self
    }

    /// Returns how many requests may be in flight now.
    pub fn limit(&self) -> usize {
        let limit =
            if self.probe.is_active { (self.limit * UNLOADED).max(self.min) } else { self.limit };
        limit as usize
    }

    /// Returns the limit outside of probes: the estimate of the service's concurrency.
    pub fn steady_limit(&self) -> usize {
        self.limit as usize
    }

    /// Adds the latency of a response. `in_flight` is the number of requests in flight when it began, itself included.
    pub fn on_sample(&mut self, rtt: Duration, in_flight: usize) {
        let latency = rtt.max(MIN_LATENCY).as_secs_f64();
        let in_flight = in_flight as f64;
        if in_flight <= (self.limit * UNLOADED).max(self.min) {
            if let Some(mean) = self.unloaded.add(latency, MIN_SAMPLES) {
                self.on_unloaded_round(mean);
            }
        } else if self.probe.is_active || in_flight < self.limit / 2.0 {
            // It began before the probe, or the limit was not reached, so its latency does not depend on the limit.
        } else if let Some(mean) = self.loaded.add(latency, MIN_SAMPLES.max(self.limit as usize)) {
            self.on_loaded_round(mean);
        }
    }

    /// Reports that requests wait for a permit and there was no sample for `quiet`.
    ///
    /// A probe without a sample for several latencies is ended, and the next one is delayed: the requests in flight
    /// hold their permits for longer than the head of a response takes, for example because they are streams.
    pub fn on_stall(&mut self, quiet: Duration) {
        let known = self.short.or(self.long).map(|s| Duration::try_from_secs_f64(s * 4.0));
        let timeout = match known {
            Some(latency) => latency.unwrap_or(Duration::MAX).max(PROBE_TIMEOUT / 10),
            None => PROBE_TIMEOUT,
        };
        if self.probe.is_active && quiet >= timeout {
            self.probe.interval = (self.probe.interval * 2).min(MAX_PROBE_INTERVAL);
            self.end_probe();
        }
    }

    fn on_unloaded_round(&mut self, mean: f64) {
        // The plain mean of the first rounds, then an exponential average.
        self.unloaded_rounds = self.unloaded_rounds.saturating_add(1);
        let weight = (1.0 / f64::from(self.unloaded_rounds)).max(MIN_WEIGHT);
        let long = self.long.unwrap_or(mean);
        self.long = Some(long + (mean - long) * weight);
        if self.probe.is_active {
            self.probe.interval = PROBE_INTERVAL;
            self.end_probe();
        }
    }

    fn end_probe(&mut self) {
        self.probe.is_active = false;
        self.probe.due_in = self.probe.interval;
        self.loaded = Round::default();
    }

    fn on_loaded_round(&mut self, short: f64) {
        self.short = Some(short);
        // The first loaded latency stands in for an unloaded one.
        let long = self.long.get_or_insert(short);
        let gradient = (self.tolerance * *long / short).clamp(0.5, 1.0);
        if *long > short * 2.0 {
            *long *= 0.95; // a service is not faster under load, so the long-term latency is an outlier
        }
        let aim = self.limit * gradient + self.queue;
        let limit = self.limit + (aim - self.limit) * SMOOTHING;
        self.limit = limit.clamp(self.min, self.max);
        self.probe.due_in = self.probe.due_in.saturating_sub(1);
        self.probe.is_active = self.probe.due_in == 0;
        if self.probe.is_active {
            self.unloaded = Round::default();
        }
    }
}

impl Default for Gradient {
    fn default() -> Self {
        Self::new()
    }
}

/// The sum of a round's latencies.
#[derive(Debug, Clone, Default)]
struct Round {
    sum: f64,
    n: usize,
}

impl Round {
    /// Adds a latency. Returns the mean once there are `enough`, and starts over.
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
