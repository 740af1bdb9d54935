//! `ForwardLayer`: the options of a [`Forward`](super::Forward).

use std::sync::Arc;

use http::HeaderValue;
use tower_layer::Layer;

use super::Forward;
use crate::{
    conn::tunnels::{TunnelOptions, Tunnels},
    semantics::{forwarded::ForwardedFields, rewrite::Rewrite, via::Via},
};

/// Wraps a service in [`Forward`].
#[derive(Debug, Clone, Default)]
pub struct ForwardLayer {
    pub(in crate::upstream) options: Options,
}

#[derive(Debug, Clone, Default)]
pub(in crate::upstream) struct Options {
    pub(in crate::upstream) fields: ForwardedFields,
    pub(in crate::upstream) via: Option<Via>,
    pub(in crate::upstream) forwards_trace: bool,
    pub(in crate::upstream) forwards_expect: bool,
    pub(in crate::upstream) host: HostPolicy,
    pub(in crate::upstream) rewrite: Option<Arc<Rewrite>>,
    pub(in crate::upstream) tunnels: TunnelOptions,
}

/// The `Host` of forwarded requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostPolicy {
    /// The client's `Host`, as with nginx's `proxy_set_header Host $host`.
    #[default]
    Client,
    /// The server's address, for servers that serve several sites or refuse unknown names, without the scheme's default
    /// port. `X-Forwarded-Host` has the client's `Host`.
    Server,
    /// A fixed value.
    Fixed(HeaderValue),
}

impl ForwardLayer {
    /// Creates a layer that sets `X-Forwarded-For`, `-Proto` and `-Host`, and removes such fields of the
    /// client.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which fields are added, and how those that a request already has are handled.
    #[must_use]
    pub fn fields(mut self, fields: ForwardedFields) -> Self {
        self.options.fields = fields;
        self
    }

    /// Adds `Via` to requests and responses (RFC 9110 section 7.6.3). Off by default, as in nginx and HAProxy,
    /// although the RFC requires it: servers behind a reverse proxy seldom need it, and some do not compress
    /// responses to requests with it.
    #[must_use]
    pub fn via(mut self, via: Via) -> Self {
        self.options.via = Some(via);
        self
    }

    /// Sets whether `Expect: 100-continue` is forwarded, so that a server may refuse a request by its head before the
    /// client has sent the body. Off by default: the client is sent 100 as soon as its body is read, and the server gets
    /// the body at once.
    ///
    /// If the server does not answer within a second, it is sent the body. Its 100 is not relayed: the client is sent 100
    /// when its body is read. Behind a [`RequestBufferLayer`](crate::layer::RequestBufferLayer) this has no effect on the
    /// client, whose body was received before.
    #[must_use]
    pub fn forward_expect(mut self, on: bool) -> Self {
        self.options.forwards_expect = on;
        self
    }

    /// Sets the `Host` of forwarded requests. Default: the client's.
    #[must_use]
    pub fn host(mut self, policy: HostPolicy) -> Self {
        self.options.host = policy;
        self
    }

    /// Rewrites the paths of requests, and the redirects and cookies of responses. A request whose path is not below the
    /// public prefix is answered with 404, and one with a dot segment with 400.
    #[must_use]
    pub fn rewrite(mut self, rewrite: Rewrite) -> Self {
        self.options.rewrite = Some(Arc::new(rewrite));
        self
    }

    /// Sets the protocols to which connections may switch, and the bounds of tunnels, which all clones of the service
    /// share. Default: WebSocket, [`TunnelOptions::new`].
    #[must_use]
    pub fn tunnels(mut self, options: TunnelOptions) -> Self {
        self.options.tunnels = options;
        self
    }

    /// Sets whether TRACE is forwarded, without credentials. By default it is answered with 501. See
    /// [`gateway::answer`](crate::semantics::gateway::answer).
    #[must_use]
    pub fn forward_trace(mut self, on: bool) -> Self {
        self.options.forwards_trace = on;
        self
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = Forward<S>;

    fn layer(&self, inner: S) -> Forward<S> {
        let tunnels = Tunnels::new(self.options.tunnels.clone());
        Forward { inner, options: self.options.clone(), tunnels }
    }
}
