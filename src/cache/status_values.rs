//! `StatusValues`: the values of `Cache-Status` of a cache.

use http::HeaderValue;

use crate::semantics::cache::status::{CacheStatus, Forwarded};

/// The values of forwarded requests are the same for each request, so they are formed once.
pub(super) struct StatusValues {
    name: String,
    /// By reason, for responses that are not stored, and for those that are.
    forwarded: [[Option<HeaderValue>; 2]; Forwarded::ALL.len()],
}

impl StatusValues {
    pub(super) fn new(name: String) -> Self {
        let forwarded = Forwarded::ALL.map(|why| {
            [false, true].map(|stored| {
                let status = CacheStatus { stored, ..CacheStatus::forwarded(why) };
                status.to_value(&name)
            })
        });
        Self { name, forwarded }
    }

    /// Returns the value for a status; `None` if the name of the cache cannot be sent.
    pub(super) fn value(&self, status: CacheStatus) -> Option<HeaderValue> {
        match status.forwarded {
            Some(why)
                if status
                    == (CacheStatus { stored: status.stored, ..CacheStatus::forwarded(why) }) =>
            {
                self.forwarded[why as usize][usize::from(status.stored)].clone()
            }
            _ => status.to_value(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_their_status() {
        let values = StatusValues::new("front".to_owned());
        for why in Forwarded::ALL {
            for stored in [false, true] {
                let status = CacheStatus { stored, ..CacheStatus::forwarded(why) };
                let collapsed = CacheStatus { collapsed: true, ..status };
                let validated = CacheStatus { forwarded_status: Some(304), ..status };
                for status in [status, collapsed, validated] {
                    assert_eq!(values.value(status).unwrap(), status.to_text("front"));
                }
            }
        }
        let hit = CacheStatus { ttl: Some(9), ..CacheStatus::HIT };
        assert_eq!(values.value(hit).unwrap(), "front; hit; ttl=9");
    }
}
