//! The monotonic clock, and the wall clock as a `Date` line that is formatted once a second.

use std::{
    cell::RefCell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use httpdate::HttpDate;

/// Length of `date: Sun, 06 Nov 1994 08:49:37 GMT\r\n`: 6 + 29 + 2 bytes.
const DATE_LINE: usize = 37;

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { line: [0; DATE_LINE], valid: None }) };
}

/// Returns the time of the runtime's monotonic clock, which tests can pause.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A `Date` field line.
struct Date {
    line: [u8; DATE_LINE],
    /// The validity range of the line, as long as the wall clock is not set.
    valid: Option<(Instant, Instant)>,
}

/// Calls `f` with the `Date` field line for `now` (RFC 9110 section 6.6.1), CRLF included.
///
/// `now` is a recent reading of [`now`]. The line is formatted once for each second of the wall clock. A
/// change of the wall clock takes effect within a second.
///
/// ```
/// use vestibule::net::clock;
///
/// clock::with_date_line(clock::now(), |line| {
///     assert!(line.starts_with(b"date: ") && line.ends_with(b" GMT\r\n"));
/// });
/// ```
pub fn with_date_line<R>(now: Instant, f: impl FnOnce(&[u8]) -> R) -> R {
    DATE.with_borrow_mut(|date| {
        if !date.valid.is_some_and(|(from, until)| from <= now && now < until) {
            date.set(now, SystemTime::now());
        }
        f(&date.line)
    })
}

impl Date {
    fn set(&mut self, now: Instant, wall: SystemTime) {
        let text = format!("date: {}\r\n", HttpDate::from(wall));
        debug_assert_eq!(text.len(), DATE_LINE, "an IMF-fixdate has 29 bytes");
        self.line.copy_from_slice(&text.as_bytes()[..DATE_LINE]);
        let past = wall.duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        let left = Duration::from_secs(1) - Duration::from_nanos(past.into());
        self.valid = now.checked_add(left).map(|until| (now, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_line_is_valid_to_the_end_of_its_second() {
        let now = now();
        let mut date = Date { line: [0; DATE_LINE], valid: None };
        for (millis, left) in [(0, 1000), (1, 999), (999, 1), (1000, 1000)] {
            date.set(now, UNIX_EPOCH + Duration::from_millis(784_111_777_000 + millis));
            let until = now + Duration::from_millis(left);
            assert_eq!(date.valid, Some((now, until)));
        }
        assert_eq!(&date.line, b"date: Sun, 06 Nov 1994 08:49:38 GMT\r\n");
    }

    #[test]
    fn date_line_has_the_current_second() {
        let second = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let before = SystemTime::now();
        let line = with_date_line(now(), <[u8]>::to_vec);
        let after = SystemTime::now();
        let text = std::str::from_utf8(&line[6..DATE_LINE - 2]).unwrap();
        let date = second(httpdate::parse_http_date(text).unwrap());
        assert!((second(before)..=second(after)).contains(&date), "{text}");
    }
}
