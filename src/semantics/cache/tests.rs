//! Vectors: a request, a response, and the expected decisions of a cache.
//!
//! A heading names the case. In its block `> name: value` is a field of the request, `< 200` the status and
//! `< name: value` a field of the response; `{-60}` is the date 60 seconds before the response was received. Then:
//!
//! - `store: yes`, or the reason of [`NotStored`] by its name;
//! - `lifetime: 60` in seconds;
//! - `at 30: Fresh`, the [`Reuse`] after 30 seconds; `at 30 (max-age=5): Validate` for a request with this
//!   `Cache-Control`;
//! - `error at 30: yes`, whether it may be used after 30 seconds if the origin fails.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{freshness::Received, invalidate, storable::*, update::*, vary::*, *};
use crate::semantics::date::HttpDate;

const RECEIVED: u64 = 1_800_000_000;

#[derive(Default)]
struct Case {
    name: String,
    request: HeaderMap,
    status: StatusCode,
    response: HeaderMap,
    checks: Vec<(String, String)>,
}

fn read(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if let Some(name) = line.strip_prefix("## ") {
            cases.push(Case { name: name.to_owned(), ..Case::default() });
        } else if in_block {
            let case = cases.last_mut().expect("a block stands below a heading");
            if let Some(field) = line.strip_prefix("> ") {
                add(&mut case.request, field);
            } else if let Some(status) = line.strip_prefix("< ").and_then(|s| s.parse().ok()) {
                case.status = status;
            } else if let Some(field) = line.strip_prefix("< ") {
                add(&mut case.response, field);
            } else {
                let (check, want) = line.rsplit_once(": ").expect("a check and its result");
                case.checks.push((check.to_owned(), want.to_owned()));
            }
        }
    }
    cases
}

fn add(headers: &mut HeaderMap, field: &str) {
    let (name, value) = field.split_once(':').expect("a name and a value");
    let mut value = value.trim().to_owned();
    if let Some((before, rest)) = value.split_once('{') {
        let (offset, after) = rest.split_once('}').expect("a closing brace");
        let at = RECEIVED.saturating_add_signed(offset.parse().expect("seconds"));
        value = format!("{before}{}{after}", HttpDate::from_seconds(at));
    }
    let name: HeaderName = name.parse().expect("a name");
    headers.append(name, HeaderValue::try_from(value).expect("a value"));
}

fn run(case: &Case, defaults: &Lifetimes) {
    let at = Duration::from_secs(RECEIVED);
    let times = Received { requested: at, received: at, date: HttpDate::from_seconds(RECEIVED) };
    let control = ResponseControl::of(&case.response);
    let freshness = Freshness::of(case.status, &case.response, &control, times, defaults);
    assert!(!case.checks.is_empty(), "{} checks nothing", case.name);
    for (check, want) in &case.checks {
        let got = if check == "store" {
            let request_control = RequestControl::of(&case.request);
            let exchange = Exchange {
                method: &Method::GET,
                request: &case.request,
                request_control: &request_control,
                status: case.status,
                response: &case.response,
                control: &control,
            };
            let decision = storable(&exchange, SetCookie::KeepOut)
                .and_then(|_| has_use(&exchange, &freshness));
            decision.map_or_else(|reason| format!("{reason:?}"), |()| "yes".to_owned())
        } else if check == "lifetime" {
            freshness.lifetime().as_secs().to_string()
        } else if let Some(seconds) = check.strip_prefix("error at ") {
            let now = at + Duration::from_secs(seconds.parse().unwrap());
            if freshness.is_usable_on_error(now) { "yes" } else { "no" }.to_owned()
        } else {
            let rest = check.strip_prefix("at ").unwrap_or_else(|| panic!("{check}?"));
            let (seconds, directives) = rest.split_once(" (").unwrap_or((rest, ""));
            let mut request = HeaderMap::new();
            if let Some(directives) = directives.strip_suffix(')') {
                request.insert(header::CACHE_CONTROL, directives.parse().unwrap());
            }
            let now = at + Duration::from_secs(seconds.parse().unwrap());
            format!("{:?}", freshness.reuse(&RequestControl::of(&request), now))
        };
        assert_eq!(got, *want, "{}: {check}", case.name);
    }
}

#[test]
fn r11_cache_vectors_have_the_expected_decisions() {
    let plain = Lifetimes::default();
    let generous = Lifetimes {
        heuristic: Some(Heuristic::default()),
        default: Duration::from_secs(20),
        negative: Duration::from_secs(10),
        stale_while_revalidate: Duration::from_secs(5),
        stale_if_error: Duration::from_secs(300),
    };
    for (text, defaults, least) in [
        (include_str!("vectors/control.md"), plain, 30),
        (include_str!("vectors/storing.md"), plain, 20),
        (include_str!("vectors/defaults.md"), generous, 9),
    ] {
        let cases = read(text);
        assert!(cases.len() >= least, "{}", cases.len());
        cases.iter().for_each(|case| run(case, &defaults));
    }
}

fn map(fields: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    fields.iter().for_each(|field| add(&mut headers, field));
    headers
}

#[test]
fn requests_that_differ_in_spelling_select_the_same_variant() {
    let key = |vary: &str, fields: &[&str]| {
        Vary::of(&map(&[&format!("vary: {vary}")])).key(&map(fields)).unwrap()
    };
    let same: [(&str, &[&str], &[&str]); 9] = [
        ("foo", &["foo: 1, 2"], &["foo: 1", "foo: 2"]),
        ("foo", &["foo: 1,2"], &["foo:  1 ,, 2 "]),
        ("FOO, bar", &["foo: 1"], &["foo: 1", "baz: 2"]),
        ("accept-language", &["accept-language: en, de"], &["accept-language: dE,EN"]),
        ("accept-encoding", &["accept-encoding: gzip, br"], &["accept-encoding: br,gzip, deflate"]),
        ("accept-encoding", &["accept-encoding: deflate"], &[]),
        (
            "accept-encoding",
            &["accept-encoding: br;q=0.9, gzip;q=0.1"],
            &["accept-encoding: br, gzip;q=0.5"],
        ),
        ("", &["foo: 1"], &["foo: 2"]),
        ("foo, foo", &["foo: 1"], &["foo: 1"]),
    ];
    for (vary, a, b) in same {
        assert_eq!(key(vary, a), key(vary, b), "{vary}: {a:?} {b:?}");
    }
    let different: [(&str, &[&str], &[&str]); 8] = [
        ("foo", &["foo: 1"], &["foo: 2"]),
        ("foo", &["foo: 1"], &[]),
        ("foo", &["foo:"], &[]),
        ("foo", &[r#"foo: "a,b""#], &[r#"foo: "a, b""#]),
        ("foo, bar", &["foo: 1"], &["bar: 1"]),
        ("accept-language", &["accept-language: en;q=0.5, de"], &["accept-language: en, de;q=0.5"]),
        (
            "accept-encoding",
            &["accept-encoding: gzip, br;q=0.5"],
            &["accept-encoding: br, gzip;q=0.5"],
        ),
        ("accept-encoding", &["accept-encoding: gzip"], &["accept-encoding: gzip, identity;q=0"]),
    ];
    for (vary, a, b) in different {
        assert_ne!(key(vary, a), key(vary, b), "{vary}: {a:?} {b:?}");
    }
}

#[test]
fn vary_with_star_invalid_name_or_too_many_names_matches_nothing() {
    for value in ["*", "*, *", ", *", "foo, *", "*, foo", "a b", "a;b", "\"a\""] {
        let vary = Vary::of(&map(&[&format!("vary: {value}")]));
        assert_eq!((vary.key(&HeaderMap::new()), vary), (None, Vary::Any), "{value}");
    }
    let names = |n: usize| (0..n).map(|i| format!("a{i}")).collect::<Vec<_>>().join(",");
    let vary = |n| Vary::of(&map(&[&format!("vary: {}", names(n))]));
    assert!(matches!(vary(MAX_FIELDS), Vary::Fields(f) if f.len() == MAX_FIELDS));
    assert_eq!(vary(MAX_FIELDS + 1), Vary::Any);
}

#[test]
fn groups_are_read_from_both_fields_up_to_their_bound() {
    let of = |fields: &[&str]| groups::of(&map(fields));
    assert_eq!(of(&[r#"cache-groups: "b";x=1, "a\"c""#]).unwrap(), [r#"a"c"#, "b"]);
    assert_eq!(of(&["cache-groups: b", "surrogate-key: x\ty"]).unwrap(), ["x", "y"]);
    assert_eq!(of(&[r#"cache-groups: "a" "b""#]).unwrap(), [""; 0]);
    let names = |n: usize| (0..n).map(|i| format!("g{i}")).collect::<Vec<_>>().join(" ");
    assert!(of(&[&format!("surrogate-key: {}", names(groups::MAX_GROUPS))]).is_ok());
    assert!(of(&[&format!("surrogate-key: {}", names(groups::MAX_GROUPS + 1))]).is_err());
    let long = |n: usize| of(&[&format!("surrogate-key: {}", "g".repeat(n))]);
    assert!(long(groups::MAX_GROUP_LEN).is_ok() && long(groups::MAX_GROUP_LEN + 1).is_err());
}

#[test]
fn not_modified_updates_all_fields_but_those_of_the_content() {
    let mut stored = map(&["a: 1", "a: 2", "b: 1", "content-length: 5", "etag: \"1\""]);
    update(&mut stored, &map(&["a: 3", "c: 4", "content-length: 9", "etag: \"2\""]));
    let want = map(&["a: 3", "b: 1", "c: 4", "content-length: 5", "etag: \"1\""]);
    assert_eq!(stored, want);
}

#[test]
fn head_with_another_validator_expires_what_is_stored() {
    let stored = map(&["etag: \"1\""]);
    for (fields, want) in [
        (&["etag: \"1\"", "content-length: 5"][..], HeadUpdate::Update),
        (&[], HeadUpdate::Update),
        (&["etag: \"2\""], HeadUpdate::Expire),
        (&["content-length: 6"], HeadUpdate::Expire),
        (&["last-modified: {-5}"], HeadUpdate::Expire),
    ] {
        assert_eq!(head_update(&stored, 5, &map(fields)), want, "{fields:?}");
    }
}

#[test]
fn validation_replaces_the_conditions_of_the_client() {
    let client = ["if-none-match: \"x\"", "if-match: \"x\"", "range: bytes=0-1", "if-range: \"x\""];
    let mut request = map(&client);
    assert!(add_conditions(&mut request, &map(&["etag: \"1\"", "last-modified: {-9}"])));
    assert_eq!(request, map(&["if-none-match: \"1\"", "if-modified-since: {-9}"]));
    let mut request = map(&client);
    assert!(!add_conditions(&mut request, &map(&["etag: unquoted"])));
    assert!(request.is_empty());
}

#[test]
fn unsafe_request_invalidates_references_of_its_own_origin_only() {
    let resolved_by = |authority: &str, reference: &str| {
        let headers = map(&[&format!("location: {reference}")]);
        invalidate::targets("http", authority, "/x/y", &headers).pop()
    };
    let resolved = |reference: &str| resolved_by("a.example:80", reference);
    for (reference, want) in [
        ("/b", "/b"),
        ("b", "/x/b"),
        ("./b/../c", "/x/c"),
        ("../../../b", "/b"),
        ("..", "/"),
        ("?q", "/x/y?q"),
        ("#top", "/x/y"),
        ("http://a.example", "/"),
        ("http://A.example:80/b?c#d", "/b?c"),
        ("//a.example/b", "/b"),
        ("http://a.example./b", "/b"),
        ("http://a.example.:80/b", "/b"),
    ] {
        assert_eq!(resolved(reference).as_deref(), Some(want), "{reference}");
    }
    for authority in ["a.example.", "a.example.:80"] {
        assert_eq!(resolved_by(authority, "//a.example/b").as_deref(), Some("/b"), "{authority}");
    }
    for other in [
        "https://a.example/b",
        "http://b.example/b",
        "http://a.example../b",
        "//b.example/",
        "mailto:b",
        "http:b",
    ] {
        assert_eq!(resolved(other), None, "{other}");
    }
    let both = map(&["location: /a", "content-location: /b"]);
    assert_eq!(invalidate::targets("http", "a", "/", &both), ["/a", "/b"]);
}

#[test]
fn stored_response_answers_conditions_and_ranges() {
    use super::select::{Selected, select};
    use crate::semantics::range::Part;
    let now = HttpDate::from_seconds(RECEIVED);
    let stored = map(&["etag: \"1\"", "last-modified: {-60}", "date: {0}"]);
    let part = |first, last| Selected::Part(Part::Slice { first, last });
    for (fields, want) in [
        (&["accept: */*"][..], Selected::Whole),
        (&["if-none-match: W/\"1\""], Selected::NotModified),
        (&["if-none-match: \"2\"", "if-modified-since: {0}"], Selected::Whole),
        (&["if-modified-since: {-60}"], Selected::NotModified),
        (&["range: bytes=1-2"], part(1, 2)),
        (&["range: bytes=-1"], part(9, 9)),
        (&["range: bytes=10-"], Selected::Part(Part::Unsatisfiable)),
        (&["range: bytes=1-2", "if-range: \"1\""], part(1, 2)),
        (&["range: bytes=1-2", "if-range: \"2\""], Selected::Whole),
        (&["range: lines=1-2"], Selected::Whole),
    ] {
        let ok = StatusCode::OK;
        assert_eq!(
            select(&Method::GET, &map(fields), ok, &stored, Some(10), now),
            want,
            "{fields:?}"
        );
        let gone = select(&Method::GET, &map(fields), StatusCode::GONE, &stored, Some(10), now);
        assert_eq!(gone, Selected::Whole);
    }
    // A date is no strong validator if the response was generated in the same second, however old it is.
    let request = map(&["range: bytes=1-2", "if-range: {-60}"]);
    for (generated, want) in [("date: {-60}", Selected::Whole), ("date: {-59}", part(1, 2))] {
        let stored = map(&["last-modified: {-60}", generated]);
        let selected = select(&Method::GET, &request, StatusCode::OK, &stored, Some(10), now);
        assert_eq!(selected, want, "{generated}");
    }
    // The date of the response stands for its last modification.
    let undated = map(&["date: {-60}"]);
    let since = map(&["if-modified-since: {-60}"]);
    let selected = select(&Method::GET, &since, StatusCode::OK, &undated, Some(10), now);
    assert_eq!(selected, Selected::NotModified);
}

#[test]
fn field_that_is_not_stored_is_removed() {
    let mut headers = map(&[
        "cache-control: no-cache=\"a\", private=\"B, c\"",
        "a: 1",
        "b: 1",
        "c: 1",
        "d: 1",
        "e: 1",
        "connection: d",
        "age: 5",
        "set-cookie: x=y",
        "proxy-authenticate: Basic",
        "transfer-encoding: chunked",
    ]);
    let control = ResponseControl::of(&headers);
    retain_stored_fields(
        &mut headers,
        &control,
        SetCookie::KeepOut,
        HttpDate::from_seconds(RECEIVED),
    );
    headers.remove(header::CACHE_CONTROL);
    assert_eq!(headers, map(&["e: 1", "date: {0}"]));
}

#[test]
fn early_refresh_becomes_more_probable_before_the_expiry() {
    let at = Duration::from_secs(RECEIVED);
    let times = Received { requested: at, received: at, date: HttpDate::from_seconds(RECEIVED) };
    let response = map(&["cache-control: max-age=100"]);
    let control = ResponseControl::of(&response);
    let freshness =
        Freshness::of(StatusCode::OK, &response, &control, times, &Lifetimes::default());
    let cost = Duration::from_secs(2);
    let share = |remaining: u64| {
        let now = at + Duration::from_secs(100 - remaining);
        (1..1000)
            .filter(|i| freshness.refreshes_early(cost, 1.0, f64::from(*i) / 1000.0, now))
            .count()
    };
    assert_eq!(share(50), 0);
    assert!(share(2) > 300 && share(2) < 420, "e^-1 of them: {}", share(2));
    assert!(share(1) > share(2) && share(0) == 999);
    assert!(!freshness.refreshes_early(cost, 0.0, 0.0, at + Duration::from_secs(99)));
}

#[test]
fn cache_status_names_the_cache_and_what_it_did() {
    use super::status::{CACHE_STATUS, CacheStatus, Forwarded};
    let stale = CacheStatus {
        forwarded_status: Some(304),
        ttl: Some(-3),
        collapsed: true,
        ..CacheStatus::forwarded(Forwarded::Stale)
    };
    let mut headers = HeaderMap::new();
    stale.append("a\"b", &mut headers);
    CacheStatus::HIT.append("front", &mut headers);
    let lines: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
    assert_eq!(lines, [r#""a\"b"; fwd=stale; fwd-status=304; ttl=-3; collapsed"#, "front; hit"]);
}
