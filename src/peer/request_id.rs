//! `RequestId`: the number of a request.

use std::fmt;

/// The number of a request: that of its connection, and its position among the requests of the connection.
/// It is in the extensions of every request and in every log line about it.
///
/// Connections are numbered from 1 in the order in which this process drives them, and so are the
/// requests of each. Numbers of connections repeat after 2^32 of them.
///
/// ```
/// use vestibule::peer::RequestId;
///
/// let id = RequestId::new(17, 3);
/// assert_eq!(id.to_string(), "17-3");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    connection: u32,
    request: u32,
}

impl RequestId {
    /// Creates the id of request `request` on connection `connection`.
    pub const fn new(connection: u32, request: u32) -> Self {
        Self { connection, request }
    }

    /// Returns the number of the connection.
    pub const fn connection(self) -> u32 {
        self.connection
    }

    /// Returns the number of the request on its connection; 1 is the first.
    pub const fn request(self) -> u32 {
        self.request
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.connection, self.request)
    }
}
