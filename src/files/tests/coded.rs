//! What a request gets of a file that there is in several codings.

use super::*;

/// `app.js` in two codings: 100 bytes plain, 1,000 as gzip.
fn coded_site() -> (Site, Dir) {
    let site = Site::new();
    site.write("app.js", "p".repeat(100));
    site.write("app.js.gz", "z".repeat(1000));
    let dir = site.dir().precompressed();
    (site, dir)
}

#[tokio::test]
async fn whatever_depends_on_the_coding_says_so() {
    let (_site, dir) = coded_site();
    for (fields, coding, status) in [
        ((header::RANGE, "bytes=100-"), "identity", 416),
        ((header::RANGE, "bytes=100-"), "gzip", 206),
        ((header::RANGE, "bytes=1000-"), "gzip", 416),
        ((header::IF_MATCH, "\"other\""), "gzip", 412),
        ((header::IF_NONE_MATCH, "*"), "gzip", 304),
        ((header::RANGE, "bytes=0-"), "identity;q=0, br", 406),
        ((header::IF_NONE_MATCH, "*"), "identity;q=0, br", 406),
    ] {
        let fields = [fields, (header::ACCEPT_ENCODING, coding)];
        let response = get_with(&dir, "/app.js", &fields).await;
        assert_eq!(response.status().as_u16(), status, "{fields:?}");
        assert_eq!(field(&response, &header::VARY), "accept-encoding", "{fields:?}");
    }
}
