//! Refuses a connection before its protocol has begun.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Io;

/// Bytes that are read and discarded, 64 KiB, so that the client reads the response.
const DISCARD_BYTES: u64 = 64 << 10;

/// Sends `response`, ends the stream, and reads what the client has sent and still sends. The caller bounds its time.
pub(crate) async fn refuse<I: Io>(io: &mut I, response: &[u8]) -> io::Result<()> {
    io.write_all(response).await?;
    io.shutdown().await?;
    // Closing a socket with unread bytes resets the connection, and the response would be lost.
    tokio::io::copy(&mut io.take(DISCARD_BYTES), &mut tokio::io::sink()).await?;
    Ok(())
}
