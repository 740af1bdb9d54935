//! The proxy in front of scripted servers.
