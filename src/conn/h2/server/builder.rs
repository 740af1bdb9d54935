//! The bounds of a connection that `h2` checks.

use std::time::Duration;

use h2::server::Builder;

use crate::conn::{Config, Http2Config};

/// Maximum number of streams of a connection that the client may cause this server to reset by malformed frames, 500
/// (CVE-2025-8671). They include the requests beyond `max_streams` that a client sends before it has read the SETTINGS,
/// usually up to 100, and DATA frames of a request whose reset is no longer remembered. `h2` counts them over the life of
/// the connection, and ends it beyond.
const MAX_PROVOKED_RESETS: usize = 500;

/// The number after which the connection accepts no further request, so that an honest client, which has provoked them
/// over weeks, loses none: 250.
pub(super) const DRAIN_PROVOKED_RESETS: u32 = 250;

/// Bytes that DATA frames of less than 256 bytes may take in `h2` beside their content: 1 MiB, for 4,100 frames of a
/// byte. They wait there until the driver polls their requests.
const DATA_FRAME_BUDGET: usize = 1 << 20;

/// Time in which a client may still send data of a request that this server has reset: 2 s. A longer time would fill the
/// memory of resets at a lower rate of requests.
const RESET_MEMORY: Duration = Duration::from_secs(2);

/// Returns the maximum number of concurrent requests.
pub(super) fn max_streams(options: &Http2Config, config: &Config) -> usize {
    // Requests beyond what the workers take would wait here; at the client, another server may take them.
    let admitted = config.gate.max_requests().unwrap_or(usize::MAX).max(1);
    usize::try_from(options.max_streams).unwrap_or(usize::MAX).min(admitted)
}

/// Returns a builder with the configured bounds.
pub(super) fn of(options: &Http2Config, config: &Config) -> Builder {
    let mut builder = Builder::new();
    let streams = max_streams(options, config);
    builder
        .max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX))
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_header_list_size(u32::try_from(config.limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(options.send_buffer)
        .data_frame_budget(DATA_FRAME_BUDGET)
        // A client may send and cancel all of its requests before this connection is polled.
        .max_pending_accept_reset_streams(streams)
        // The data of a request that was answered early and reset is still on its way. For a stream that is no longer
        // known, `h2` counts each of its frames as a reset that the client has provoked.
        .max_concurrent_reset_streams(streams.saturating_mul(10))
        .reset_stream_duration(RESET_MEMORY)
        .max_local_error_reset_streams(Some(MAX_PROVOKED_RESETS));
    if options.extended_connect {
        builder.enable_connect_protocol();
    }
    builder
}
