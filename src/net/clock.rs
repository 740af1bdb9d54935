//! The wall clock, formatted for `Date` once a second, and the steady one.

use std::{
    cell::RefCell,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use httpdate::HttpDate;

/// `date: Sun, 06 Nov 1994 08:49:37 GMT\r\n`: 6 + 29 + 2 bytes.
const DATE_LINE: usize = 37;

thread_local! {
    static DATE: RefCell<(u64, [u8; DATE_LINE])> = const { RefCell::new((0, [0; DATE_LINE])) };
}

/// Calls `f` with the whole `Date` field line of this second (RFC 9110 section 6.6.1).
///
/// ```
/// vestibule::net::clock::with_date_line(|line| {
///     assert!(line.starts_with(b"date: ") && line.ends_with(b" GMT\r\n"));
/// });
/// ```
pub fn with_date_line<R>(f: impl FnOnce(&[u8]) -> R) -> R {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    DATE.with_borrow_mut(|(of, line)| {
        if *of != second || line[0] == 0 {
            let text = format!("date: {}\r\n", HttpDate::from(now));
            debug_assert_eq!(text.len(), DATE_LINE, "an IMF-fixdate has 29 bytes");
            line.copy_from_slice(&text.as_bytes()[..DATE_LINE]);
            *of = second;
        }
        f(&line[..])
    })
}

/// Now, on the runtime's clock: tests may pause it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
