//! The option of a server with TLS.

use super::Serve;
use crate::net::tls;

impl<S> Serve<S> {
    /// Serves TLS: each connection begins with a handshake, within the time of its first head. A client that
    /// sends plain HTTP is answered 400.
    ///
    /// For plain HTTP beside it, a second server on another port redirects by
    /// [`HttpsLayer`](crate::layer::HttpsLayer).
    ///
    /// ```no_run
    /// # async fn run() -> std::io::Result<()> {
    /// use vestibule::{Router, serve, tls};
    ///
    /// let tls = tls::Server::pem_files("site.pem", "site.key")?;
    /// serve("0.0.0.0:443", Router::new()).tls(tls).await
    /// # }
    /// ```
    pub fn tls(self, tls: tls::Server) -> Self {
        self.with(|config| config.tls(tls))
    }
}
