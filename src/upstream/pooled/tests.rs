use super::*;
use crate::upstream::remote::Http1;

fn kind(error: io::ErrorKind, delivery: Delivery, is_reused: bool) -> AttemptErrorKind {
    let error = ExchangeError {
        cause: Cause::Io(error.into()),
        delivery,
        request: None,
        awaits_body: false,
    };
    attempt_error::<Http1>(error, is_reused).kind()
}

#[test]
fn timeout_of_tcp_is_a_lost_connection_if_the_request_may_have_been_sent() {
    use AttemptErrorKind::{ConnectionLost, StaleConnection};
    let timeout = io::ErrorKind::TimedOut;
    assert_eq!(kind(timeout, Delivery::NotSent, true), StaleConnection);
    assert_eq!(kind(timeout, Delivery::NotSent, false), ConnectionLost);
    for delivery in [Delivery::MaybeSent, Delivery::Answered] {
        assert_eq!(kind(timeout, delivery, true), ConnectionLost);
    }
    assert_eq!(kind(io::ErrorKind::ConnectionReset, Delivery::MaybeSent, true), StaleConnection);
}
