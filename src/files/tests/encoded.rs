//! Responses of a file with several codings.

use super::*;

/// `app.js` in two codings: 100 bytes plain, 1,000 as gzip.
fn encoded_site() -> (Site, DirBuilder) {
    let site = Site::new();
    site.write("app.js", "p".repeat(100));
    site.write("app.js.gz", "z".repeat(1000));
    let builder = site.builder().precompressed();
    (site, builder)
}

#[tokio::test]
async fn response_that_depends_on_accept_encoding_has_vary() {
    let (_site, builder) = encoded_site();
    let dir = builder.build();
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

#[tokio::test]
async fn r8_parts_of_encoded_file_are_not_mixed_with_identity() {
    let (_site, builder) = encoded_site();
    let dir = builder.build();
    let several = (header::RANGE, "bytes=0-0,900-900");
    let whole = get_with(&dir, "/app.js", &[(header::ACCEPT_ENCODING, "gzip"), several]).await;
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(field(&whole, &header::CONTENT_ENCODING), "gzip");
    assert_eq!(content(whole).await, "z".repeat(1000));
    let one = (header::RANGE, "bytes=0-0,2-2");
    let one = get_with(&dir, "/app.js", &[(header::ACCEPT_ENCODING, "gzip"), one]).await;
    assert_eq!(field(&one, &header::CONTENT_RANGE), "bytes 0-2/1000");
    assert_eq!(field(&one, &header::CONTENT_ENCODING), "gzip");
    let several = (header::RANGE, "bytes=0-0,99-99");
    let plain = get_with(&dir, "/app.js", &[(header::ACCEPT_ENCODING, "br"), several]).await;
    assert_eq!(plain.status(), StatusCode::PARTIAL_CONTENT);
    assert!(field(&plain, &header::CONTENT_TYPE).starts_with("multipart/byteranges"));
}

#[tokio::test]
async fn missing_file_is_404_though_no_coding_of_its_page_is_acceptable() {
    let (_site, builder) = encoded_site();
    let dir = builder.not_found_page("app.js").build();
    for (coding, text) in [("gzip", "z"), ("br", "p"), ("identity;q=0", "p"), ("*;q=0", "p")] {
        for _ in 0..2 {
            let response = get_with(&dir, "/none", &[(header::ACCEPT_ENCODING, coding)]).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{coding}");
            assert_eq!(field(&response, &header::VARY), "accept-encoding", "{coding}");
            assert_eq!(field(&response, &header::ETAG), "(none)", "{coding}");
            assert_eq!(content(response).await[..1], *text.as_bytes(), "{coding}");
        }
    }
}
