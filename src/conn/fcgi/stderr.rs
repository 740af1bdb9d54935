//! `StderrLog`: logs an application's STDERR line by line.

use crate::conn::{RequestInfo, log_request};

/// The maximum length of a logged line, 8 KiB. A longer one is split, which bounds the memory of a line
/// that does not end.
const MAX_LINE: usize = 8 << 10;

/// Collects lines, and logs them with the request to which they belong.
#[derive(Debug, Default)]
pub(super) struct StderrLog {
    request: RequestInfo,
    line: Vec<u8>,
}

impl StderrLog {
    /// Starts the lines of this request.
    pub(super) fn begin_request(&mut self, request: RequestInfo) {
        self.request = request;
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            for piece in piece.chunks(MAX_LINE) {
                if self.line.len() + piece.len() > MAX_LINE {
                    self.flush_line();
                }
                self.line.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                self.flush_line();
            }
        }
    }

    /// Ends the lines of the request; `dropped` bytes exceeded its bound.
    pub(super) fn end_request(&mut self, dropped: u64) {
        self.flush_line(); // php-fpm ends its last line with the request
        if dropped > 0 {
            log_request!(
                warn,
                "vestibule::fastcgi",
                &self.request,
                dropped,
                "application wrote more to stderr than its bound"
            );
        }
    }

    fn flush_line(&mut self) {
        let text = self.line.trim_ascii_end();
        if !text.is_empty() {
            // Escaped, so that it cannot look like another line of the log.
            let stderr = tracing::field::debug(String::from_utf8_lossy(text));
            log_request!(
                warn,
                "vestibule::fastcgi",
                &self.request,
                stderr,
                "application wrote to stderr"
            );
        }
        self.line.clear();
    }
}

/// Logs the last line of an exchange that ends early.
impl Drop for StderrLog {
    fn drop(&mut self) {
        self.flush_line();
    }
}
