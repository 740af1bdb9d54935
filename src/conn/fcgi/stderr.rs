//! What an application writes to STDERR, as lines of the log.

use crate::conn::{RequestInfo, log_request};

/// Bytes of a line in the log: what is longer is divided. It bounds what is held of a line without an
/// end.
const LINE: usize = 8 << 10;

/// Collects lines, and logs them with the request that they belong to.
#[derive(Debug, Default)]
pub(super) struct StderrLog {
    request: RequestInfo,
    line: Vec<u8>,
}

impl StderrLog {
    /// What follows belongs to this request.
    pub(super) fn begin(&mut self, request: RequestInfo) {
        self.request = request;
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            for piece in piece.chunks(LINE) {
                if self.line.len() + piece.len() > LINE {
                    self.log();
                }
                self.line.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                self.log();
            }
        }
    }

    /// The request has ended, and so many bytes were dropped.
    pub(super) fn end(&mut self, dropped: u64) {
        self.log(); // php-fpm ends its last line with the request
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

    fn log(&mut self) {
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

/// An exchange that ends early has its last line logged too.
impl Drop for StderrLog {
    fn drop(&mut self) {
        self.log();
    }
}
