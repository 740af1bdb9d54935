//! `run`: the front, which serves the site and forwards the connections of the application to its database. The tests of the
//! crate run it, too, with each tier in a network namespace of its own.

use std::{future::Future, time::Duration};

use tower::ServiceBuilder;
use vestibule::{
    BoxError,
    layer::{RequestBufferLayer, RescueLayer, ResponseBufferLayer},
    net::{Drain, Listener},
    serve::serve,
    upstream::{RetryLayer, TcpBalance, Upstream},
};

/// Time that connections to a database have to end after a signal. An application keeps them open between its requests.
const DATABASE_DRAIN: Duration = Duration::from_secs(10);

/// The addresses of the tiers.
pub struct Options {
    pub listen: String,
    pub apps: Vec<String>,
    pub database_listen: Option<String>,
    pub databases: Vec<String>,
}

/// Runs the front until `signal` completes, and then until all requests and connections have ended.
pub async fn run(
    options: Options,
    signal: impl Future<Output = ()> + Send + 'static,
) -> Result<(), BoxError> {
    let retry = RetryLayer::new()
        .attempt_timeout(Duration::from_secs(10))
        .total_timeout(Duration::from_secs(30));
    let site = ServiceBuilder::new()
        .layer(RescueLayer::new()) // outermost: it converts the errors of all layers
        .layer(ResponseBufferLayer::new()) // frees the application before the client has read the response
        .layer(RequestBufferLayer::new()) // calls the application when the client has sent the request
        .service(Upstream::builder(options.apps).retry(retry).build()?);

    let drain = Drain::new();
    let front = async {
        let served = serve(options.listen, site).shutdown(signal).await;
        drain.begin(); // also ends the other listener
        served
    };
    let database = async {
        let Some(address) = options.database_listen else { return Ok(()) };
        let database = TcpBalance::builder(options.databases).build()?;
        database.serve(Listener::bind(&address.parse()?, false)?, &drain).await
    };
    tokio::try_join!(front, database)?;
    if tokio::time::timeout(DATABASE_DRAIN, drain.ended()).await.is_err() {
        drain.abort();
        drain.ended().await;
    }
    Ok(())
}
