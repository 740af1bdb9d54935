//! `outliers`: endpoints of a set that perform much worse than the others.

use std::time::Duration;

use super::HealthOptions;

/// Minimum number of endpoints with enough requests: 3. Of two that differ, it is unknown which one is the outlier.
const MIN_ENDPOINTS: usize = 3;

/// The results of an endpoint in an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Completed attempts.
    pub requests: u32,
    /// Failed attempts among them.
    pub failures: u32,
    /// Attempts among them whose latency is known. It is unknown if a response that is no success precedes the end of the
    /// request, since the endpoint may have waited for the client, and if there is no response, except at a timeout.
    pub timed: u32,
    /// The sum of the known latencies.
    pub latency: Duration,
}

impl Sample {
    /// Returns the mean of the known latencies; zero if none is.
    pub(crate) fn mean_latency(&self) -> Duration {
        self.latency / self.timed.max(1)
    }
}

/// Returns the indices of the outliers: endpoints below [`outlier_success`](HealthOptions::outlier_success) or above
/// [`outlier_latency`](HealthOptions::outlier_latency), compared with the median of the endpoints with
/// [enough](HealthOptions::outlier_requests) requests, of which there must be three. Latencies are compared of endpoints
/// with enough known ones, of which there must be three, too.
///
/// Outliers do not move the median, as they do the mean and the deviation of a small set: of three endpoints, the one
/// that always fails is found.
///
/// ```
/// use std::time::Duration;
/// use vestibule::policy::health::{HealthOptions, Sample, outliers};
///
/// let sample = |failures, millis| {
///     let latency = Duration::from_millis(millis);
///     Sample { requests: 100, failures, timed: 100, latency }
/// };
/// let samples = [sample(1, 900), sample(60, 1100), sample(0, 9000), sample(2, 1000)];
/// let options = HealthOptions::new().outlier_success(70).outlier_latency(5);
/// assert_eq!(outliers(&samples, &options), [1, 2]);
/// ```
pub fn outliers(samples: &[Sample], options: &HealthOptions) -> Vec<usize> {
    let enough = options.min_requests.max(1);
    let success = |s: &Sample| {
        let requests = f64::from(s.requests);
        (s.requests >= enough).then(|| (requests - f64::from(s.failures)) / requests)
    };
    let latency = |s: &Sample| (s.timed >= enough).then(|| s.mean_latency().as_secs_f64());
    let share = f64::from(options.success_below) / 100.0;
    let least = median(samples.iter().filter_map(success).collect()).map(|usual| usual * share);
    let factor = f64::from(options.latency_factor);
    let most = median(samples.iter().filter_map(latency).collect()).map(|usual| usual * factor);
    let is_outlier = |s: &Sample| {
        let fails = success(s).zip(least).is_some_and(|(success, least)| success < least);
        let is_slow = latency(s).zip(most).is_some_and(|(latency, most)| latency > most);
        fails || (options.latency_factor > 0 && is_slow)
    };
    (0..samples.len()).filter(|&index| is_outlier(&samples[index])).collect()
}

/// Returns the median; the lower one of the two in the middle if the number is even. `None` of too few endpoints.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    (values.len() >= MIN_ENDPOINTS).then(|| values[(values.len() - 1) / 2])
}
