//! `HttpDate`: a date in whole seconds, written as IMF-fixdate (RFC 9110 section 5.6.7).

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, header};

/// The last second of the year 9999, the latest that the format can express.
const MAX: u64 = 253_402_300_799;

/// A date and time in whole seconds, between the years 1970 and 9999.
///
/// ```
/// use vestibule::semantics::date::HttpDate;
///
/// let date = HttpDate::parse(b"Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
/// assert_eq!(date.seconds(), 784_111_777);
/// assert_eq!(date.to_string(), "Sun, 06 Nov 1994 08:49:37 GMT");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpDate(u64);

impl HttpDate {
    /// Creates a date from seconds since the Unix epoch. Later dates become the last second of 9999.
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds.min(MAX))
    }

    /// Parses a date in any of the three formats of RFC 9110 section 5.6.7; `None` if it is invalid.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        httpdate::parse_http_date(text).ok().map(Self::from)
    }

    /// Returns the seconds since the Unix epoch.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// Returns the date as a field value.
    pub fn to_value(self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).expect("a date is plain ASCII")
    }
}

/// Returns the time for which `Retry-After` asks (RFC 9110 section 10.2.3): seconds, or a date. A date counts from
/// the response's own `Date`, so that a wrong clock of either side does not matter, or from `now` if it has none. `None`
/// if the field is absent, invalid or repeated.
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, HeaderValue};
/// use vestibule::semantics::date::{HttpDate, retry_after};
///
/// let now = HttpDate::parse(b"Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
/// let mut fields = HeaderMap::new();
/// fields.insert("retry-after", HeaderValue::from_static("Sun, 06 Nov 1994 08:50:07 GMT"));
/// assert_eq!(retry_after(&fields, now), Some(Duration::from_secs(30)));
/// fields.insert("retry-after", HeaderValue::from_static("120"));
/// assert_eq!(retry_after(&fields, now), Some(Duration::from_secs(120)));
/// ```
pub fn retry_after(fields: &HeaderMap, now: HttpDate) -> Option<Duration> {
    let mut values = fields.get_all(header::RETRY_AFTER).iter();
    let (value, None) = (values.next()?.as_bytes().trim_ascii(), values.next()) else {
        return None;
    };
    if value.iter().all(u8::is_ascii_digit) {
        return std::str::from_utf8(value).ok()?.parse().ok().map(Duration::from_secs);
    }
    let until = HttpDate::parse(value)?;
    let since = fields.get(header::DATE).and_then(|date| HttpDate::parse(date.as_bytes()));
    Some(Duration::from_secs(until.seconds().saturating_sub(since.unwrap_or(now).seconds())))
}

impl From<SystemTime> for HttpDate {
    /// Truncates to whole seconds. A time before 1970, which a file may have, becomes the epoch.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::from_seconds(since.as_secs())
    }
}

impl fmt::Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In range by construction: `httpdate` panics outside of 1970 to 9999.
        httpdate::HttpDate::from(SystemTime::UNIX_EPOCH + Duration::from_secs(self.0)).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_is_parsed_in_three_formats_and_written_in_one() {
        for form in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            let date = HttpDate::parse(form.as_bytes()).unwrap();
            assert_eq!(date.to_value(), "Sun, 06 Nov 1994 08:49:37 GMT");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_from_that_of_the_response() {
        let now = HttpDate::parse(b"Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = |lines: &[(&'static str, &'static str)]| {
            let mut fields = HeaderMap::new();
            for (name, value) in lines {
                fields.append(*name, HeaderValue::from_static(value));
            }
            retry_after(&fields, now).map(|period| period.as_secs())
        };
        let at = |value| ("retry-after", value);
        let date = "Sun, 06 Nov 1994 08:50:07 GMT";
        assert_eq!(seconds(&[]), None);
        for (value, expected) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            (date, Some(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("18446744073709551616", None),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(seconds(&[at(value)]), expected, "{value}");
        }
        let own = ("date", "Sun, 06 Nov 1994 08:49:57 GMT");
        assert_eq!(seconds(&[at(date), own]), Some(10));
        assert_eq!(seconds(&[at(date), ("date", "yesterday")]), Some(30));
        assert_eq!(seconds(&[at("1"), at("2")]), None, "ambiguous");
    }

    #[test]
    fn invalid_date_is_none() {
        for bad in [&b""[..], b"yesterday", b"0", b"Sun, 06 Nov 1994 08:49:37", b"\xff\xfe"] {
            assert_eq!(HttpDate::parse(bad), None);
        }
    }

    #[test]
    fn times_beyond_the_format_are_clamped() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(HttpDate::from(before).seconds(), 0);
        let after = HttpDate::from_seconds(u64::MAX);
        assert_eq!(after.to_string(), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn fractions_of_a_second_are_truncated() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_999_999_999);
        assert_eq!(HttpDate::from(time).seconds(), 1);
    }
}
