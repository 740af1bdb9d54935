//! The option of a server behind senders of the PROXY protocol.

use super::Serve;
use crate::conn::ProxyProtocol;

impl<S> Serve<S> {
    /// Reads a PROXY header in front of each connection from the trusted senders, and refuses one from any other
    /// address. See [`ProxyProtocol`].
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use vestibule::{Router, conn::ProxyProtocol, serve};
    ///
    /// let balancers = ProxyProtocol::new().trust("10.0.0.0/24".parse()?);
    /// serve("0.0.0.0:8080", Router::new()).proxy_protocol(balancers).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn proxy_protocol(self, senders: ProxyProtocol) -> Self {
        self.with(|config| config.proxy_protocol(senders))
    }
}
