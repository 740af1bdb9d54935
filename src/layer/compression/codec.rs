//! Encoders and decoders, which work in steps.

use std::io;

use bytes::BytesMut;
use compression_codecs::{
    BrotliDecoder, BrotliEncoder, DecodeV2, EncodeV2, GzipDecoder, GzipEncoder, ZstdDecoder,
    ZstdEncoder, brotli,
    core::{
        Level as CodecLevel,
        util::{PartialBuffer, WriteBuffer},
    },
    flate::params::FlateEncoderParams,
    zstd::params::DParameter,
};

use super::{Level, padding};
use crate::semantics::negotiate::Coding;

/// Maximum output of a step: 8 KiB.
const STEP: usize = 8 << 10;

/// Maximum window of `zstd`: 2^23 bytes, which RFC 9659 permits in HTTP. A decoder takes that much memory.
const ZSTD_WINDOW_LOG: u32 = 23;

/// An encoder of one content.
pub(super) struct Encoder {
    codec: Box<dyn EncodeV2 + Send>,
    /// The length of the padding that is not written yet.
    padding: u16,
}

impl Encoder {
    /// Creates an encoder; `None` for `identity`.
    pub(super) fn new(coding: Coding, level: Level) -> Option<Self> {
        // The levels that servers use for content that is compressed while it is sent.
        let (gzip, br, zstd) = match level {
            Level::Fast => (1, 1, 1),
            Level::Default => (5, 4, 3),
            Level::Best => (9, 9, 12),
        };
        let codec: Box<dyn EncodeV2 + Send> = match coding {
            Coding::Identity => return None,
            Coding::Gzip => {
                Box::new(GzipEncoder::new(FlateEncoderParams::from(CodecLevel::Precise(gzip))))
            }
            Coding::Brotli => {
                // A window of 2^19 bytes limits the memory of a response.
                let params = brotli::params::EncoderParams::default();
                let params = params.quality(CodecLevel::Precise(br)).window_size(19);
                Box::new(BrotliEncoder::new(params))
            }
            Coding::Zstd => Box::new(ZstdEncoder::new(zstd)),
        };
        Some(Self { codec, padding: 0 })
    }

    /// Adds this many bytes of padding, if the coding is gzip.
    pub(super) fn pad(&mut self, len: u16) {
        self.padding = len;
    }

    /// Calls the codec, and pads the header, which is in the first output.
    fn step<T>(
        &mut self,
        out: &mut BytesMut,
        f: impl FnOnce(&mut dyn EncodeV2, &mut WriteBuffer<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let result = step(out, |output| f(&mut *self.codec, output));
        if self.padding > 0 && !out.is_empty() {
            padding::add_comment(out, std::mem::take(&mut self.padding));
        }
        result
    }

    /// Encodes a piece. Some of it may stay in the encoder.
    pub(super) fn encode(&mut self, piece: &[u8], out: &mut BytesMut) -> io::Result<()> {
        let mut input = PartialBuffer::new(piece);
        while !input.unwritten().is_empty() {
            self.step(out, |codec, output| codec.encode(&mut input, output))?;
        }
        Ok(())
    }

    /// Writes all encoded data, so that a decoder gets everything so far.
    pub(super) fn flush(&mut self, out: &mut BytesMut) -> io::Result<()> {
        while !self.step(out, |codec, output| codec.flush(output))? {}
        Ok(())
    }

    /// Writes the rest.
    pub(super) fn finish(&mut self, out: &mut BytesMut) -> io::Result<()> {
        while !self.step(out, |codec, output| codec.finish(output))? {}
        Ok(())
    }
}

/// A decoder of one content.
pub(in crate::layer) struct Decoder {
    inner: Box<dyn DecodeV2 + Send>,
    is_gzip: bool,
    /// Whether the content may have several members (RFC 1952 section 2.2), or frames (RFC 8878 section 3).
    has_members: bool,
    /// Whether the end of a member was read.
    is_done: bool,
    /// Whether the last step has filled its output, so that more may follow without input.
    has_more: bool,
}

impl Decoder {
    /// Creates a decoder; `None` for `identity`.
    pub(in crate::layer) fn new(coding: Coding) -> Option<Self> {
        let inner: Box<dyn DecodeV2 + Send> = match coding {
            Coding::Identity => return None,
            Coding::Gzip => Box::new(GzipDecoder::new()),
            Coding::Brotli => Box::new(BrotliDecoder::new()),
            Coding::Zstd => {
                let window = DParameter::window_log_max(ZSTD_WINDOW_LOG);
                Box::new(ZstdDecoder::new_with_params(&[window]))
            }
        };
        let is_gzip = coding == Coding::Gzip;
        let has_members = coding != Coding::Brotli;
        Some(Self { inner, is_gzip, has_members, is_done: false, has_more: false })
    }

    /// Decodes from `input` until `out` has at least `limit` bytes or the input is used up. Returns the number of
    /// bytes that were used.
    ///
    /// # Errors
    /// The input is malformed, or bytes follow its end that are not another member.
    pub(in crate::layer) fn decode(
        &mut self,
        input: &[u8],
        out: &mut BytesMut,
        limit: usize,
    ) -> io::Result<usize> {
        let mut input = PartialBuffer::new(input);
        while out.len() < limit {
            if self.is_done {
                if input.unwritten().is_empty() {
                    break;
                }
                if !self.has_members {
                    return Err(malformed("bytes follow the encoded content"));
                }
                self.inner.reinit()?;
                (self.is_done, self.has_more) = (false, false);
            }
            let has_input = !input.unwritten().is_empty();
            if !has_input && !self.has_more {
                break;
            }
            let (before, used) = (out.len(), input.written_len());
            if has_input || !self.is_gzip {
                self.is_done = step(out, |output| self.inner.decode(&mut input, output))?;
            } else {
                // The decoder returns an error for a call without input.
                step(out, |output| self.inner.flush(output))?;
            }
            self.has_more = out.len() == before + STEP;
            let is_stuck = out.len() == before && input.written_len() == used && !self.is_done;
            if has_input && is_stuck {
                return Err(malformed("the encoded content is malformed"));
            }
        }
        Ok(input.written_len())
    }

    /// Returns whether the content is complete, unless another member follows.
    pub(in crate::layer) fn is_done(&self) -> bool {
        self.is_done
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Calls `f` with room for [`STEP`] bytes.
fn step<T>(
    out: &mut BytesMut,
    f: impl FnOnce(&mut WriteBuffer<'_>) -> io::Result<T>,
) -> io::Result<T> {
    let start = out.len();
    out.resize(start + STEP, 0);
    let mut output = WriteBuffer::new_initialized(&mut out[start..]);
    let result = f(&mut output);
    let written = output.written_len();
    out.truncate(start + written);
    result
}
