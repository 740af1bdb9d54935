//! A lack of descriptors or memory in this process, in which the server has no part.

use super::*;
use crate::{
    error::{Error, Kind},
    policy::health::Phase,
    upstream::{
        Balance,
        check::{CheckOptions, HttpCheck, connects},
    },
};

const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;
const ECONNREFUSED: i32 = 111;

/// Servers at an address where none listens, by each protocol.
fn remotes() -> impl Iterator<Item = Remote> {
    let schemes = if cfg!(feature = "h2") { &["http", "h2"][..] } else { &["http"] };
    schemes.iter().map(|scheme| Remote::new(format!("{scheme}://127.76.2.2:80")).unwrap())
}

#[tokio::test]
async fn lack_of_descriptors_is_no_failure_of_the_endpoint() {
    for remote in remotes() {
        let endpoint = Endpoint::from(remote.clone());
        for code in [EMFILE, ENOBUFS] {
            inject(&remote, Some(Fault::Error(code)));
            let (one, two) =
                tokio::join!(endpoint.clone().oneshot(get()), endpoint.clone().oneshot(get()));
            for result in [one, two] {
                let mut error = result.unwrap_err();
                let kinds = (error.kind(), error.delivery());
                assert_eq!(kinds, (AttemptErrorKind::Busy, Delivery::NotSent), "{code}");
                assert!(error.take_request().is_some());
                let source = error.into_source();
                assert_eq!(Error::find(&*source).unwrap().kind(), Kind::Overloaded);
            }
        }
        assert_eq!(endpoint.handle().phase(), Phase::Ready);
        assert_eq!(endpoint.handle().failures(), 0);
        inject(&remote, Some(Fault::Error(ECONNREFUSED)));
        let error = endpoint.clone().oneshot(get()).await.unwrap_err();
        assert_eq!(error.kind(), AttemptErrorKind::Unreachable);
        assert_ne!(endpoint.handle().phase(), Phase::Ready, "it is ejected");
    }
}

#[tokio::test(start_paused = true)]
async fn check_without_descriptors_does_not_change_the_state_of_the_endpoint() {
    for (remote, is_http) in remotes().flat_map(|remote| [(remote.clone(), false), (remote, true)])
    {
        let endpoint = Endpoint::from(remote.clone());
        let handle = endpoint.handle().clone();
        let balance = Balance::round_robin([endpoint]);
        inject(&remote, Some(Fault::Error(EMFILE)));
        let options = CheckOptions::new();
        let checks = if is_http {
            tokio::spawn(balance.check(HttpCheck::new("/").unwrap(), options))
        } else {
            tokio::spawn(balance.check(connects, options))
        };
        tokio::time::sleep(60 * SEC).await;
        assert_eq!(handle.phase(), Phase::Ready);
        let error = handle.last_error().unwrap();
        assert!(error.contains("os error 24"), "{error}");
        inject(&remote, Some(Fault::Error(ECONNREFUSED)));
        tokio::time::sleep(60 * SEC).await;
        assert_eq!(handle.phase(), Phase::Down);
        checks.abort();
    }
}
