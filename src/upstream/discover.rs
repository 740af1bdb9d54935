//! Sources of endpoints: the trait [`Discover`], and the usual ones.
//!
//! | source | follows |
//! |---|---|
//! | [`fixed`] | a list that does not change |
//! | [`FileSource`] | a file with a target in each line, read again when it changes |
#![cfg_attr(
    feature = "dns",
    doc = "| [`DnsSource`] | the addresses of a name, or its SRV records, by their TTL |"
)]
#![cfg_attr(feature = "etcd", doc = "| [`EtcdSource`] | the keys of etcd with a prefix |")]
//!
//! [`Balance::follow`](super::Balance::follow) applies the updates of a source.

mod file;
mod follow;
mod steps;
mod target;

#[cfg(feature = "dns")]
mod dns;
#[cfg(feature = "etcd")]
mod etcd;

#[cfg(test)]
mod tests;

use futures_core::Stream;

use super::endpoint::EndpointKey;
use crate::error::BoxError;

#[cfg(feature = "dns")]
pub use dns::{DNS_MAX_TTL, DNS_MIN_TTL, DnsSource};
#[cfg(feature = "etcd")]
pub use etcd::EtcdSource;
pub use file::{FILE_INTERVAL, FileSource, MAX_FILE};
pub use follow::{FollowOptions, MAX_TARGETS};
pub use target::{InvalidTarget, Target};

/// An update of a source of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// The complete set.
    Set(Vec<Target>),
    /// An added or changed endpoint.
    Insert(Target),
    /// A removed endpoint.
    Remove(EndpointKey),
}

/// A source of endpoints: a stream of complete sets or changes. It ends only if no further change is possible.
/// Implemented for every such stream.
///
/// An error means that the source is currently unavailable, and leaves the set as it is. The source itself waits
/// before it tries again.
///
/// ```
/// use vestibule::{BoxError, upstream::discover::{Discover, Target, Update}};
///
/// fn of_my_own() -> impl Discover {
///     let targets = vec!["10.0.0.1:3000".parse::<Target>().unwrap()];
///     tokio_stream::iter([Ok::<_, BoxError>(Update::Set(targets))])
/// }
/// # drop(of_my_own());
/// ```
pub trait Discover: Stream<Item = Result<Update, BoxError>> + Send {}

impl<D: Stream<Item = Result<Update, BoxError>> + Send> Discover for D {}

/// Creates a source of targets that never change.
pub fn fixed(targets: impl IntoIterator<Item = Target>) -> impl Discover + 'static {
    let targets: Vec<_> = targets.into_iter().collect();
    steps::Steps::new(Some(targets), |targets| {
        Box::pin(async move {
            let mut targets = targets;
            let item = targets.take().map(|targets| Ok(Update::Set(targets)));
            (item, targets)
        })
    })
}
