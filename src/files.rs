//! A folder as a service.
