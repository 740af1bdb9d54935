//! `FirstRead`: how much of a response is read together with its head.

/// The least length of a body that is moved by splice(2), 32 KiB: below it a copy costs less.
pub(super) const MIN_SPLICED: u64 = 32 << 10;

/// The most that is read with the head of a response whose body is likely to be spliced, 4 KiB.
const SHORT_READ: usize = 4 << 10;

/// How much of a response is read together with its head.
///
/// What has been read into memory cannot be moved in the kernel. A large first read saves a system call for every other
/// response, so it is short only on a connection whose last body was large, and never again on one whose large bodies
/// have a reader that takes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum FirstRead {
    /// As much as there is.
    #[default]
    Whole,
    /// The head, and not much more.
    Short,
    /// As much as there is, on this connection from now on.
    AlwaysWhole,
}

impl FirstRead {
    /// Returns the maximum of the read.
    pub(super) fn max_len(self) -> usize {
        if self == Self::Short { SHORT_READ } else { usize::MAX }
    }

    /// Records the head of a response with `body` bytes on a stream that can be spliced.
    pub(super) fn record_response(&mut self, body: u64) {
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
