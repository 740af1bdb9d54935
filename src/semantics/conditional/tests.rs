use http::HeaderValue;

use super::*;

const OLD: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const NEW: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name, HeaderValue::from_static(value));
    }
    map
}

fn current() -> Validators<'static> {
    Validators { etag: ETag::strong(b"x").ok(), last_modified: HttpDate::parse(AT.as_bytes()) }
}

#[track_caller]
fn check(method: &Method, fields: &[(HeaderName, &'static str)], want: Outcome) {
    assert_eq!(evaluate(method, &headers(fields), Some(current())), want, "{method} {fields:?}");
}

#[test]
fn if_match_refuses_tags_that_do_not_match_strongly() {
    use header::IF_MATCH;
    check(&Method::PUT, &[(IF_MATCH, r#""x""#)], Outcome::Proceed);
    check(&Method::PUT, &[(IF_MATCH, "*")], Outcome::Proceed);
    check(&Method::PUT, &[(IF_MATCH, r#""y", "x""#)], Outcome::Proceed);
    check(&Method::PUT, &[(IF_MATCH, r#""y""#), (IF_MATCH, r#""x""#)], Outcome::Proceed);
    check(&Method::PUT, &[(IF_MATCH, r#""y""#)], Outcome::PreconditionFailed);
    check(&Method::GET, &[(IF_MATCH, r#"W/"x""#)], Outcome::PreconditionFailed);
    check(&Method::GET, &[(IF_MATCH, "nonsense")], Outcome::PreconditionFailed);
}

#[test]
fn if_unmodified_since_applies_only_without_if_match() {
    use header::{IF_MATCH, IF_UNMODIFIED_SINCE};
    check(&Method::PUT, &[(IF_UNMODIFIED_SINCE, AT)], Outcome::Proceed);
    check(&Method::PUT, &[(IF_UNMODIFIED_SINCE, NEW)], Outcome::Proceed);
    check(&Method::PUT, &[(IF_UNMODIFIED_SINCE, OLD)], Outcome::PreconditionFailed);
    check(&Method::PUT, &[(IF_UNMODIFIED_SINCE, "no date")], Outcome::Proceed);
    check(&Method::PUT, &[(IF_MATCH, r#""x""#), (IF_UNMODIFIED_SINCE, OLD)], Outcome::Proceed);
}

#[test]
fn if_none_match_is_304_for_safe_methods_and_412_for_others() {
    use header::IF_NONE_MATCH;
    for same in [r#""x""#, r#"W/"x""#, "*", r#""a", W/"x""#] {
        check(&Method::GET, &[(IF_NONE_MATCH, same)], Outcome::NotModified);
        check(&Method::HEAD, &[(IF_NONE_MATCH, same)], Outcome::NotModified);
        check(&Method::PUT, &[(IF_NONE_MATCH, same)], Outcome::PreconditionFailed);
    }
    check(&Method::GET, &[(IF_NONE_MATCH, r#""y""#)], Outcome::Proceed);
    check(&Method::GET, &[(IF_NONE_MATCH, "nonsense")], Outcome::Proceed);
}

#[test]
fn if_modified_since_applies_only_to_safe_methods_and_without_if_none_match() {
    use header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
    check(&Method::GET, &[(IF_MODIFIED_SINCE, AT)], Outcome::NotModified);
    check(&Method::HEAD, &[(IF_MODIFIED_SINCE, NEW)], Outcome::NotModified);
    check(&Method::GET, &[(IF_MODIFIED_SINCE, OLD)], Outcome::Proceed);
    check(&Method::POST, &[(IF_MODIFIED_SINCE, AT)], Outcome::Proceed);
    check(&Method::GET, &[(IF_MODIFIED_SINCE, "no date")], Outcome::Proceed);
    check(&Method::GET, &[(IF_NONE_MATCH, r#""y""#), (IF_MODIFIED_SINCE, AT)], Outcome::Proceed);
}

#[test]
fn refusal_precedes_not_modified() {
    use header::{IF_MATCH, IF_NONE_MATCH};
    check(
        &Method::GET,
        &[(IF_MATCH, r#""y""#), (IF_NONE_MATCH, r#""x""#)],
        Outcome::PreconditionFailed,
    );
    check(&Method::GET, &[(IF_MATCH, r#""x""#), (IF_NONE_MATCH, r#""x""#)], Outcome::NotModified);
}

#[test]
fn star_matches_nothing_without_a_representation() {
    use header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH};
    let none = |name, value| evaluate(&Method::PUT, &headers(&[(name, value)]), None);
    assert_eq!(none(IF_NONE_MATCH, "*"), Outcome::Proceed);
    assert_eq!(none(IF_MATCH, "*"), Outcome::PreconditionFailed);
    assert_eq!(none(IF_MODIFIED_SINCE, AT), Outcome::Proceed);
}

#[test]
fn if_range_needs_strong_validator() {
    use header::IF_RANGE;
    let date = |text: &str| HttpDate::parse(text.as_bytes()).unwrap();
    let holds = |value, now| if_range(&headers(&[(IF_RANGE, value)]), current(), date(now));
    assert!(if_range(&HeaderMap::new(), current(), date(NEW)));
    assert!(holds(r#""x""#, AT));
    assert!(!holds(r#""y""#, NEW));
    assert!(!holds(r#"W/"x""#, NEW));
    assert!(!holds("*", NEW));
    assert!(holds(AT, NEW));
    assert!(!holds(AT, AT), "the second is not over yet");
    assert!(!holds(OLD, NEW) && !holds(NEW, NEW), "only the very date");
    let twice = headers(&[(IF_RANGE, r#""x""#), (IF_RANGE, r#""x""#)]);
    assert!(!if_range(&twice, current(), date(NEW)));
    let weak = Validators { etag: ETag::weak(b"x").ok(), last_modified: None };
    assert!(!if_range(&headers(&[(IF_RANGE, r#""x""#)]), weak, date(NEW)));
}
