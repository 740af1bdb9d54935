//! Equivalent spellings of a host and a path.

use super::*;

/// An origin that knows only the host `site.example` and paths without needless escapes.
fn literal_origin() -> Origin {
    Origin::new(|request, n| {
        let is_known = request.uri() == "http://site.example/caf%C3%A9";
        let status = if is_known { "200" } else { "404" };
        Ok(response(&[("status", status), ("cache-control", "max-age=60")], n.to_string()))
    })
}

#[tokio::test(start_paused = true)]
async fn host_in_vary_selects_nothing_since_the_key_has_it() {
    let origin =
        Origin::with_fields(&[("cache-control", "max-age=60"), ("vary", "host, accept-language")]);
    let site = site(&CacheLayer::new(), &origin);
    for host in ["site.example", "SITE.example:80", "site.example."] {
        let uri = format!("http://{host}/");
        let request = Request::get(uri).header("host", host).body(Body::empty()).unwrap();
        assert_eq!(text(site.clone().oneshot(request).await.unwrap()).await, "1", "{host}");
    }
}

#[tokio::test(start_paused = true)]
async fn spelling_of_the_first_client_does_not_decide_what_others_get() {
    for first in [
        "http://site.example./caf%C3%A9",
        "http://SITE.example:80/caf%C3%A9",
        "http://site.example/%63af%c3%a9",
        "http://site.example/caf\u{e9}",
    ] {
        let origin = literal_origin();
        let site = site(&CacheLayer::new(), &origin);
        let call = |uri| site.clone().oneshot(Request::get(uri).body(Body::empty()).unwrap());
        assert_eq!(call(first).await.unwrap().status(), 200, "{first}");
        let usual = call("http://site.example/caf%C3%A9").await.unwrap();
        assert_eq!((usual.status().as_u16(), origin.count()), (200, 1), "{first}");
    }
}
