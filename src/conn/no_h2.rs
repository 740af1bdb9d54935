//! The driver of HTTP/2 without that feature: no connection speaks it.

pub(crate) mod server {
    use std::{
        convert::Infallible,
        io,
        marker::PhantomData,
        pin::Pin,
        sync::Arc,
        task::{Context, Poll},
    };

    use crate::{
        conn::{Config, Transport},
        peer::Peer,
    };

    /// A connection that this build cannot make.
    pub(crate) struct Connection<I, S>(Infallible, PhantomData<(I, S)>);

    impl<I, S> Connection<I, S> {
        pub(crate) fn new(_: Transport<I>, _: S, _: Arc<Config>) -> Self {
            unreachable!("no connection is switched to HTTP/2 without the feature `h2`")
        }

        pub(crate) fn peer(&self) -> &Peer {
            match self.0 {}
        }
    }

    impl<I, S> Unpin for Connection<I, S> {}

    impl<I, S> Future for Connection<I, S> {
        type Output = io::Result<()>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.0 {}
        }
    }
}
