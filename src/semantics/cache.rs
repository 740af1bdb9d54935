//! Rules of a shared cache (RFC 9111): which responses may be stored, how long they are fresh, and which requests they may
//! answer.
//!
//! All functions are pure. Times are durations since the Unix epoch by a monotonic clock of the caller; `now` is an argument.
//!
//! ```
//! use http::{HeaderMap, header::CACHE_CONTROL};
//! use vestibule::semantics::cache::ResponseControl;
//!
//! let mut headers = HeaderMap::new();
//! headers.insert(CACHE_CONTROL, "public, s-maxage=60".parse().unwrap());
//! let control = ResponseControl::of(&headers);
//! assert!(control.public && control.s_maxage == Some(60));
//! ```
//!
//! | question | answered by |
//! |---|---|
//! | What do the fields mean? | [`RequestControl`], [`ResponseControl`], [`Vary`], [`NoVarySearch`], [`groups`] |
//! | May this response be stored? | [`storable`](storable::storable), [`has_use`](storable::has_use) |
//! | How long is it fresh, how old is it? | [`Freshness`] |
//! | May it answer this request now? | [`Freshness::reuse`] |
//! | With which status, and which part of it? | [`select`](select::select) |
//! | How is it revalidated and updated? | [`update`] |
//! | What does an unsafe request invalidate? | [`invalidate`] |

pub mod control;
mod directives;
pub mod freshness;
pub mod groups;
pub mod invalidate;
pub mod search;
pub mod select;
pub mod status;
pub mod storable;
mod structured;
pub mod update;
pub mod vary;

pub use control::{FieldNames, RequestControl, ResponseControl};
pub use freshness::{Freshness, Heuristic, Lifetimes, Reuse};
pub use search::NoVarySearch;
pub use vary::{Vary, VaryKey};

#[cfg(test)]
mod tests;
