//! `FirstRead`: the size of the first read of a message.

use std::io;

/// Minimum length of a body that is moved by splice(2): 32 KiB. For a shorter one, a copy costs less.
pub(super) const MIN_SPLICED: u64 = 32 << 10;

/// Maximum size of the first read of a message whose body is likely to be spliced: 4 KiB.
const SHORT_READ: usize = 4 << 10;

/// Returns whether splice(2) has failed because the socket is of another kind.
pub(super) fn is_splice_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
}

/// The size of the first read of a message, which contains the head.
///
/// Bytes that were read into memory cannot be moved in the kernel. But a large first read saves a system call for all
/// other messages. So it is small only on a connection whose last body was large, and no longer once a reader has taken
/// such a body as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum FirstRead {
    /// Large: everything that has arrived.
    #[default]
    Whole,
    /// Small: the head, and little of the body.
    Short,
    /// Large, for all further messages of this connection.
    AlwaysWhole,
}

impl FirstRead {
    /// Returns the maximum of the read.
    pub(super) fn max_len(self) -> usize {
        if self == Self::Short { SHORT_READ } else { usize::MAX }
    }

    /// Records the head of a message with `body` bytes on a stream that can be spliced.
    pub(super) fn record_head(&mut self, body: u64) {
        *self = match *self {
            Self::AlwaysWhole => Self::AlwaysWhole,
            _ if body >= MIN_SPLICED => Self::Short,
            _ => Self::Whole,
        };
    }

    /// Records that the reader of the body takes bytes.
    pub(super) fn record_refused_pipes(&mut self) {
        if *self == Self::Short {
            *self = Self::AlwaysWhole;
        }
    }
}
