//! `Unread`: data of a stream that was received while its reader does not read.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::conn::thread_buffers::detach;

/// Minimum size of a piece that is kept as it was received: 1 KiB. Smaller ones are joined.
const MIN_PIECE: usize = 1 << 10;

/// Size at which joined pieces are complete: 8 KiB.
const MAX_JOINED: usize = 8 << 10;

/// Received data, at most the window of the stream.
///
/// In the queue of `h2` each DATA frame takes about 300 bytes beside its content, so `h2` ends a connection with
/// thousands of small frames in its queue, although its client has kept within the window. Here they are joined.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pieces: VecDeque<Bytes>,
    /// The end of the data.
    joined: BytesMut,
    len: usize,
}

impl Unread {
    /// Appends the content of a DATA frame.
    pub(super) fn push(&mut self, data: Bytes) {
        self.len += data.len();
        if data.len() < MIN_PIECE {
            self.joined.extend_from_slice(&data);
        }
        if data.len() >= MIN_PIECE || self.joined.len() >= MAX_JOINED {
            let joined = self.take_joined();
            self.pieces.extend(joined);
        }
        if data.len() >= MIN_PIECE {
            self.pieces.push_back(detach(data));
        }
    }

    /// Returns the next piece.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front().or_else(|| self.take_joined())?;
        self.len -= piece.len();
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        Some(piece)
    }

    fn take_joined(&mut self) -> Option<Bytes> {
        let joined = std::mem::take(&mut self.joined);
        (!joined.is_empty()).then(|| joined.freeze())
    }

    /// Returns the number of bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_returned_in_order_and_small_ones_joined() {
        let mut unread = Unread::default();
        let mut all = Vec::new();
        for (i, len) in [1, 3, MIN_PIECE, 2, MIN_PIECE - 1, 40_000, 5].into_iter().enumerate() {
            let data = vec![u8::try_from(i).unwrap(); len];
            all.extend_from_slice(&data);
            unread.push(data.into());
        }
        assert_eq!(unread.len(), all.len());
        let pieces: Vec<_> = std::iter::from_fn(|| unread.pop()).collect();
        let sizes: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [4, MIN_PIECE, MIN_PIECE + 1, 40_000, 5]);
        assert_eq!(pieces.concat(), all);
        assert_eq!(unread.len(), 0);
    }

    #[test]
    fn frames_of_single_bytes_take_a_few_pieces() {
        let mut unread = Unread::default();
        for _ in 0..100_000 {
            unread.push(Bytes::from_static(b"x"));
        }
        let pieces = std::iter::from_fn(|| unread.pop()).count();
        assert_eq!(pieces, 100_000_usize.div_ceil(MAX_JOINED));
    }
}
