//! `HitFields`: the fields of an object's responses, shared by all hits within a second.

use std::sync::Mutex;

use http::HeaderMap;

/// The fields of the latest responses. A clone of an object starts without them.
#[derive(Debug, Default)]
pub(super) struct HitFields(Mutex<Option<Latest>>);

#[derive(Debug)]
struct Latest {
    /// The age and the remaining freshness, in seconds, on which the fields depend.
    times: (u64, i64),
    /// `None` until a second response needs them, so that rarely used objects take no memory for them.
    headers: Option<HeaderMap>,
}

impl HitFields {
    /// Returns the fields of a response with these times. Calls `make` if the latest response had other times.
    pub(super) fn get(&self, times: (u64, i64), make: impl FnOnce() -> HeaderMap) -> HeaderMap {
        // A hit does not wait for another one.
        let Ok(mut latest) = self.0.try_lock() else { return make() };
        match &mut *latest {
            Some(latest) if latest.times == times => {
                latest.headers.get_or_insert_with(make).clone()
            }
            _ => {
                *latest = Some(Latest { times, headers: None });
                drop(latest);
                make()
            }
        }
    }
}

impl Clone for HitFields {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn fields_are_made_for_the_first_two_responses_of_a_second_only() {
        let (fields, made) = (HitFields::default(), Cell::new(0));
        let count = |times: (u64, i64)| {
            let headers = fields.get(times, || {
                made.set(made.get() + 1);
                [(http::header::AGE, times.0.into())].into_iter().collect()
            });
            assert_eq!(headers["age"], times.0.to_string());
            made.get()
        };
        assert_eq!([(); 4].map(|()| count((1, 9))), [1, 2, 2, 2]);
        assert_eq!([count((1, 8)), count((2, 8)), count((1, 8))], [3, 4, 5]);
        let locked = fields.0.lock().unwrap();
        assert_eq!(fields.get((1, 8), HeaderMap::new), HeaderMap::new(), "it is not waited for");
        drop(locked);
    }
}
