//! A custom pick policy: batch jobs go to the servers in the back half of the list, all other requests to those in
//! the front half, each to the least loaded server. If a half has no available server, the other one is used.
//!
//! A policy has one method, which gets the request's head and a snapshot of the endpoints. Limits, health, retries
//! and draining are the balancer's work: a policy only chooses among those that are eligible.
//!
//! Run with `cargo run --release --example custom_policy`, then
//! `curl http://127.0.0.1:8080/` and `curl -H 'X-Priority: batch' http://127.0.0.1:8080/`.

use std::convert::Infallible;

use tower::{ServiceBuilder, service_fn};
use vestibule::{
    Body, Request, Response,
    layer::RescueLayer,
    policy::pick::{Candidate, Candidates, Pick},
    serve,
    upstream::{Balance, Endpoint, ErasedService},
};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let names = ["front-1", "front-2", "back-1", "back-2"];
    let endpoints = names.map(|name| {
        let service = service_fn(move |_: Request| async move {
            Ok::<_, Infallible>(Response::new(Body::from(format!("answered by {name}\n"))))
        });
        Endpoint::new(name, ErasedService::new(service))
    });
    let site =
        ServiceBuilder::new().layer(RescueLayer::new()).service(Balance::new(endpoints, Halves));
    serve("127.0.0.1:8080", site).shutdown(serve::shutdown_signal()).await
}

/// Sends batch jobs to one half of the endpoints and other requests to the other.
#[derive(Debug)]
struct Halves;

impl Pick for Halves {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        let is_batch = candidates
            .request()
            .is_some_and(|head| head.headers.get("x-priority").is_some_and(|v| v == "batch"));
        let half = candidates.len() / 2;
        let eligible = || candidates.iter().enumerate().filter(|(_, c)| c.is_eligible());
        let load = |(index, candidate): &(usize, Candidate<'_>)| {
            // The other half is used last, whatever its load.
            ((*index >= half) != is_batch, candidate.in_flight)
        };
        eligible().min_by_key(load).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_picks_the_least_loaded_of_its_half_and_then_of_the_other() {
        let mut servers = ["a", "b", "c", "d"].map(Candidate::new);
        servers[0].in_flight = 2;
        assert_eq!(Halves.pick(Candidates::new(&servers)), Some(1));
        (servers[0].is_available, servers[1].is_available) = (false, false);
        servers[2].in_flight = 1;
        assert_eq!(Halves.pick(Candidates::new(&servers)), Some(3));
        servers.iter_mut().for_each(|server| server.is_available = false);
        assert_eq!(Halves.pick(Candidates::new(&servers)), None);
    }
}
