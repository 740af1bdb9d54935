//! A folder as a service.

#[cfg_attr(not(test), expect(dead_code, reason = "its service comes next"))]
mod root;
