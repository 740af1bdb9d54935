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
    /// The sum of the latencies.
    pub latency: Duration,
}

/// Returns the indices of the outliers: endpoints below [`outlier_success`](HealthOptions::outlier_success) or above
/// [`outlier_latency`](HealthOptions::outlier_latency), compared with the median of the endpoints with
/// [enough](HealthOptions::outlier_requests) requests, of which there must be three.
///
/// Outliers do not move the median, as they do the mean and the deviation of a small set: of three endpoints, the one
/// that always fails is found.
///
/// ```
/// use std::time::Duration;
/// use vestibule::policy::health::{HealthOptions, Sample, outliers};
///
/// let sample = |failures, millis| Sample { requests: 100, failures, latency: Duration::from_millis(millis) };
/// let samples = [sample(1, 900), sample(60, 1100), sample(0, 9000), sample(2, 1000)];
/// let options = HealthOptions::new().outlier_success(70).outlier_latency(5);
/// assert_eq!(outliers(&samples, &options), [1, 2]);
/// ```
pub fn outliers(samples: &[Sample], options: &HealthOptions) -> Vec<usize> {
    let enough = options.min_requests.max(1);
    let counted = || samples.iter().enumerate().filter(|(_, s)| s.requests >= enough);
    if counted().count() < MIN_ENDPOINTS {
        return Vec::new();
    }
    let successes =
        |s: &Sample| f64::from(s.requests.saturating_sub(s.failures)) / f64::from(s.requests);
    let latency = |s: &Sample| s.latency.as_secs_f64() / f64::from(s.requests);
    let usual_success = median(counted().map(|(_, s)| successes(s)).collect());
    let usual_latency = median(counted().map(|(_, s)| latency(s)).collect());
    let least = usual_success * f64::from(options.success_below) / 100.0;
    let most = usual_latency * f64::from(options.latency_factor);
    let is_outlier =
        |s: &Sample| successes(s) < least || (options.latency_factor > 0 && latency(s) > most);
    counted().filter(|(_, s)| is_outlier(s)).map(|(index, _)| index).collect()
}

/// Returns the median; the lower one of the two in the middle if the number is even.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
