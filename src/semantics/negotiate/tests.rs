use http::HeaderValue;

use super::{Coding::*, *};

fn accepts(value: &str) -> Accepts {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap());
    Accepts::of(&headers)
}

const ANY: [Coding; 4] = [Zstd, Brotli, Gzip, Identity];

#[test]
fn highest_weight_is_chosen_and_first_offer_among_equals() {
    let table = [
        ("gzip, deflate, br, zstd", Some(Zstd)),
        ("gzip, deflate, br", Some(Brotli)),
        ("br;q=0.5, gzip;q=0.8", Some(Gzip)),
        ("GZIP", Some(Gzip)),
        ("x-gzip", Some(Gzip)),
        ("deflate", Some(Identity)),
        ("", Some(Identity)),
        ("identity", Some(Identity)),
        ("identity, gzip", Some(Gzip)),
        ("identity;q=1, gzip;q=0.5", Some(Identity)),
        ("gzip;q=0", Some(Identity)),
        ("*", Some(Zstd)),
        ("*;q=0.5, zstd;q=0", Some(Brotli)),
        ("*;q=0, gzip", Some(Gzip)),
        ("*;q=0", None),
        ("identity;q=0", None),
        ("identity;q=0, *;q=0.001", Some(Zstd)),
        ("gzip;q=0.000, identity;q=0.0", None),
        ("br;q=0, br", Some(Identity)),
    ];
    for (value, want) in table {
        assert_eq!(accepts(value).best(&ANY), want, "{value}");
    }
    assert_eq!(accepts("identity;q=0").best(&[Identity]), None);
    assert_eq!(accepts("br").best(&[Gzip, Identity]), Some(Identity));
    assert_eq!(Accepts::of(&HeaderMap::new()).best(&ANY), Some(Identity));
}

#[test]
fn malformed_coding_is_ignored() {
    for bad in [
        "gzip;q=2",
        "gzip;q=1.001",
        "gzip;q=0.5555",
        "gzip;q=",
        "gzip;q=-1",
        "gzip;x=1",
        "gzip;q=0.5;x",
        ";q=1",
        "gzip;q",
        "g zip",
        "gzip; q = 1",
    ] {
        assert_eq!(accepts(bad).best(&ANY), Some(Identity), "{bad}");
        assert_eq!(accepts(&format!("{bad}, br;q=0.1")).best(&ANY), Some(Brotli), "{bad}");
    }
    assert_eq!(accepts("gzip ; Q=0.9").best(&ANY), Some(Gzip));
}

#[test]
fn accept_list_is_read_up_to_its_bound() {
    let many = |n: usize| "x,".repeat(n) + "gzip";
    assert_eq!(accepts(&many(MAX_ELEMENTS - 1)).best(&ANY), Some(Gzip));
    assert_eq!(accepts(&many(MAX_ELEMENTS)).best(&ANY), Some(Identity));
}

/// The weights of `text/html` and `application/json`.
fn weights(fields: &[&str]) -> (u16, u16) {
    let mut headers = HeaderMap::new();
    for value in fields {
        headers.append(header::ACCEPT, HeaderValue::from_str(value).unwrap());
    }
    (media_weight(&headers, "text/html"), media_weight(&headers, "application/json"))
}

#[test]
fn most_specific_range_has_the_weight_of_media_type() {
    assert_eq!(weights(&[]), (1000, 1000));
    for (value, html, json) in [
        ("*/*", 1000, 1000),
        ("application/json", 0, 1000),
        ("Application/JSON", 0, 1000),
        ("application/json;q=0", 0, 0),
        ("text/html, application/json;q=0.9", 1000, 900),
        ("text/html;q=0.1, application/json ; Q=0.2", 100, 200),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 1000, 800),
        ("*/*;q=0.3, text/*;q=0.2, text/html;q=0.1", 100, 300),
        ("text/html;q=0, text/*, */*", 0, 1000),
        ("TEXT/*;q=0.5", 500, 0),
        ("application/*;q=0.5", 0, 500),
        ("text/html;q=0.1, text/html", 100, 0),
        ("text/html;level=1;q=0.4;x=y", 400, 0),
        ("application/json;charset=utf-8", 0, 1000),
        (r#"text/x;a=",application/json;q=1,", text/html;b="\";q=0";q=0.7"#, 700, 0),
        ("application/jsonp, application/json-seq, text/htm, text/html5, text", 0, 0),
        ("", 0, 0),
        (",, ,text/html", 1000, 0),
    ] {
        assert_eq!(weights(&[value]), (html, json), "{value}");
    }
    assert_eq!(weights(&["text/html;q=0.5", "*/*;q=0.1"]), (500, 100));
}

#[test]
fn malformed_media_ranges_are_ignored() {
    for bad in [
        "text/html;q=2",
        "text/html;q=",
        "text/html;q=0.5555",
        "text/html;q=.2",
        "text / html",
        "*",
        "*; q=0.2",
        "*/html",
        "te*",
        "text",
        "text/",
        "/",
        ";q=1",
        "\"text/html",
        "\\text/html",
    ] {
        assert_eq!(weights(&[bad]), (0, 0), "{bad}");
        assert_eq!(weights(&[bad, "text/*;q=0.3"]), (300, 0), "{bad}");
    }
    let many = |n: usize| "x/y,".repeat(n) + "text/html";
    assert_eq!(weights(&[&many(MAX_ELEMENTS - 1)]), (1000, 0));
    assert_eq!(weights(&[&many(MAX_ELEMENTS)]), (0, 0));
}
