//! `Router`: by host and path prefix.
