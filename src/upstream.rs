//! Reverse proxy: requests to servers elsewhere.
