//! The order of options makes no difference.

use std::fmt::Debug;

use super::*;
use crate::{
    Budget,
    net::KeepAlive,
    policy::{backoff::Backoff, health::HealthOptions, retry_budget::RetryBudget},
    proto::{h1::Limits, proxy},
    semantics::{forwarded::ForwardedFields, rewrite::Rewrite, via::Via},
};

const SEC: Duration = Duration::from_secs(1);

/// Checks that each option changes the default, and that they give the same in each rotation of their order, forward
/// and backward.
fn assert_commute<T: Debug>(new: fn() -> T, options: &[fn(T) -> T]) {
    let with = |order: &mut dyn Iterator<Item = &fn(T) -> T>| {
        format!("{:?}", order.fold(new(), |built, option| option(built)))
    };
    let default = with(&mut [].iter());
    for (n, option) in options.iter().enumerate() {
        assert_ne!(with(&mut [*option].iter()), default, "option {n} is seen");
    }
    let forward = with(&mut options.iter());
    for first in 0..options.len() {
        let (tail, head) = options.split_at(first);
        assert_eq!(with(&mut head.iter().chain(tail)), forward);
        assert_eq!(with(&mut head.iter().chain(tail).rev()), forward);
    }
}

#[test]
fn upstream_options_commute() {
    assert_commute(
        UpstreamBuilder::new,
        &[
            |b| b.server("127.0.0.1:1"),
            |b| b.health(HealthOptions::new().fall(9)),
            |b| b.server_limits(EndpointLimits::new().in_flight(9)),
            |b| b.queue(QueueOptions::new(9)),
            |b| b.empty(EmptySet::Wait),
            |b| b.attempts(9),
            |b| b.forward(ForwardedFields::new().rfc7239(true)),
            |b| b.via(Via::new("gateway").unwrap()),
            |b| b.host(HostPolicy::Server),
            |b| b.rewrite(Rewrite::new().path("/a", "/b").unwrap()),
            |b| b.forward_expect(true),
            |b| b.tunnels(TunnelOptions::off()),
            |b| b.retry(RetryLayer::new().total_timeout(SEC)),
            |b| b.forward_trace(true),
            |b| b.pool(PoolConfig::new().idle_limit(IdleLimit::new(9))),
            |b| b.limits(Limits::default()),
            |b| b.budget(Budget::builder().hard_limit(7).build()),
        ],
    );
}

#[test]
fn options_of_parts_of_a_proxy_commute() {
    assert_commute(
        BalanceBuilder::new,
        &[
            |b| b.health(HealthOptions::new().fall(9)),
            |b| b.queue(QueueOptions::new(9)),
            |b| b.empty(EmptySet::Wait),
        ],
    );
    assert_commute(
        PoolConfig::new,
        &[
            |c| c.keep_idle(9),
            |c| c.idle_limit(IdleLimit::new(9)),
            |c| c.idle_timeout(SEC),
            |c| c.non_idempotent_idle_timeout(SEC),
            |c| c.max_age(SEC),
            |c| c.max_requests(9),
            |c| c.max_connections(9),
            |c| c.max_queued(9),
            |c| c.queue_timeout(SEC),
            |c| c.connect_timeout(SEC),
            |c| c.keep_alive(KeepAlive::new().idle(SEC)),
        ],
    );
    assert_commute(
        RetryLayer::new,
        &[
            |l| l.attempts(9),
            |l| l.budget(Arc::new(RetryBudget::new(9))),
            |l| l.backoff(Backoff::new(SEC, SEC)),
            |l| l.attempt_timeout(SEC),
            |l| l.total_timeout(SEC),
        ],
    );
}

#[test]
fn health_options_commute() {
    assert_commute(
        HealthOptions::new,
        &[
            |o| o.consecutive_failures(9),
            |o| o.fail_on_server_error(true),
            |o| o.ejection(Backoff::new(SEC, SEC)),
            |o| o.probes(9),
            |o| o.slow_start(SEC),
            |o| o.max_retry_after(SEC),
            |o| o.min_available(9),
            |o| o.max_ejected(9),
            |o| o.panic_below(9),
            |o| o.rise(9),
            |o| o.fall(9),
            |o| o.outlier_interval(SEC),
            |o| o.outlier_requests(9),
            |o| o.outlier_success(9),
            |o| o.outlier_latency(9),
        ],
    );
}

#[test]
fn tcp_options_commute() {
    assert_commute::<TcpBalanceBuilder>(
        || TcpBalance::builder(["127.0.0.1:1"]),
        &[
            |b| b.health(HealthOptions::new().fall(9)),
            |b| b.server_limits(EndpointLimits::new().in_flight(9)),
            |b| b.queue(QueueOptions::new(9)),
            |b| b.empty(EmptySet::Wait),
            |b| b.connect_timeout(SEC),
            |b| b.keep_alive(KeepAlive::new().idle(SEC)),
            |b| b.total_connect_timeout(SEC),
            |b| b.attempts(9),
            |b| b.idle_timeout(SEC),
            |b| b.total_timeout(SEC),
            |b| b.max_connections(9),
            |b| b.proxy_protocol(proxy::Version::V2),
            |b| b.read_proxy_protocol(crate::conn::ProxyProtocol::new()),
        ],
    );
}
