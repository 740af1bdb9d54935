//! Reads the output of a process line by line.

use std::{io, os::fd::OwnedFd};

use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

/// The maximum length of a line, 8 KiB. A longer one is passed on in pieces, which bounds the memory.
pub(crate) const MAX_LINE: usize = 8 << 10;

/// Calls `line` for each line of a pipe, without its end, until all writers have closed it. Bytes that
/// are not UTF-8 are replaced; empty lines are left out.
///
/// # Errors
/// Those of read(2), and of registering the pipe with the runtime.
pub(crate) async fn read_lines(pipe: OwnedFd, mut line: impl FnMut(&str)) -> io::Result<()> {
    let mut pipe = Receiver::from_owned_fd(pipe)?;
    let mut buffer = Vec::with_capacity(MAX_LINE);
    loop {
        let room = MAX_LINE - buffer.len();
        let n = (&mut pipe).take(room as u64).read_buf(&mut buffer).await?;
        let mut rest = &buffer[..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            emit(&rest[..end], &mut line);
            rest = &rest[end + 1..];
        }
        if n == 0 || rest.len() == MAX_LINE {
            emit(rest, &mut line);
            rest = &[];
        }
        let left = rest.len();
        let used = buffer.len() - left;
        buffer.drain(..used);
        if n == 0 {
            return Ok(());
        }
    }
}

fn emit(bytes: &[u8], line: &mut impl FnMut(&str)) {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if !bytes.is_empty() {
        line(&String::from_utf8_lossy(bytes));
    }
}
