//! The wall clock, formatted for `Date` once a second, and the steady one.

use std::{
    cell::{Cell, RefCell},
    marker::PhantomData,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use httpdate::HttpDate;

/// `date: Sun, 06 Nov 1994 08:49:37 GMT\r\n`: 6 + 29 + 2 bytes.
const DATE_LINE: usize = 37;

thread_local! {
    static HELD: Cell<Option<Instant>> = const { Cell::new(None) };
    static DATE: RefCell<Date> = const { RefCell::new(Date { line: [0; DATE_LINE], valid: None }) };
}

/// Now, on the runtime's clock: tests may pause it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Now, or when the present poll of a connection began: for what is asked with each request and may be
/// that late. A reading costs as much as parsing a field. Nothing that is waited for goes by it.
pub(crate) fn lately() -> Instant {
    HELD.get().unwrap_or_else(now)
}

/// Reads the clock for [`lately`], which says the same until the guard is dropped.
pub(crate) fn hold() -> Held {
    let now = now();
    Held { now, before: HELD.replace(Some(now)), of_thread: PhantomData }
}

/// A reading that this thread may go by while it lives.
pub(crate) struct Held {
    pub(crate) now: Instant,
    /// One connection may be polled by the service of another.
    before: Option<Instant>,
    of_thread: PhantomData<*const ()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(self.before);
    }
}

/// A `Date` field line.
struct Date {
    line: [u8; DATE_LINE],
    /// From when on it has said the second right, and until when it will, if nobody sets the clock.
    valid: Option<(Instant, Instant)>,
}

/// Calls `f` with the whole `Date` field line of this second (RFC 9110 section 6.6.1). A wall clock
/// that is set meanwhile is followed within a second. In the poll of a connection it is the second in
/// which the poll began: who blocks in it for long gets an answer with an earlier date.
///
/// ```
/// vestibule::net::clock::with_date_line(|line| {
///     assert!(line.starts_with(b"date: ") && line.ends_with(b" GMT\r\n"));
/// });
/// ```
pub fn with_date_line<R>(f: impl FnOnce(&[u8]) -> R) -> R {
    let now = lately();
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

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_told_until_it_is_dropped_and_now_goes_on() {
        let second = Duration::from_secs(1);
        let outer = hold();
        tokio::time::advance(second).await;
        assert_eq!((lately(), now()), (outer.now, outer.now + second));
        {
            let inner = hold();
            assert_eq!((lately(), inner.now), (outer.now + second, outer.now + second));
        }
        assert_eq!(lately(), outer.now, "as before the inner one");
        let then = outer.now;
        drop(outer);
        assert_eq!(lately(), then + second);
    }

    #[test]
    fn a_date_is_good_to_the_end_of_its_second() {
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
    fn the_date_is_that_of_now() {
        let second = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let before = SystemTime::now();
        let line = with_date_line(<[u8]>::to_vec);
        let after = SystemTime::now();
        let text = std::str::from_utf8(&line[6..DATE_LINE - 2]).unwrap();
        let date = second(httpdate::parse_http_date(text).unwrap());
        assert!((second(before)..=second(after)).contains(&date), "{text}");
    }
}
