//! Invariant: `Cache-Control` and `CDN-Cache-Control` have the same result in any order of their lines; no time is
//! above its bound; a further restriction always applies, whatever precedes it; and a field without quotes has the
//! result of a simple reference that splits at commas.
#![no_main]

use http::{HeaderMap, HeaderValue, header::CACHE_CONTROL};
use libfuzzer_sys::fuzz_target;
use vestibule::semantics::cache::{
    FieldNames, RequestControl, ResponseControl, control::CDN_CACHE_CONTROL,
};

const MAX: u64 = 1 << 31;

fuzz_target!(|data: &[u8]| {
    let lines: Vec<HeaderValue> =
        data.split(|&b| b == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let control = of(&lines);
    let mut reversed = lines.clone();
    reversed.reverse();
    assert_eq!(sorted(control.clone()), sorted(of(&reversed)));
    for time in
        [control.max_age, control.s_maxage, control.stale_if_error, control.stale_while_revalidate]
    {
        assert!(time.unwrap_or(0) <= MAX);
    }
    let with = |line: &'static str| {
        let mut more = lines.clone();
        more.push(HeaderValue::from_static(line));
        of(&more)
    };
    assert!(with("no-store").no_store && with("NO-STORE;x").no_store);
    assert_eq!(with("no-cache").no_cache, Some(FieldNames::All));
    assert_eq!(with("private=x y").private, Some(FieldNames::All));
    assert!(with("max-age=oops").max_age == Some(0) && with("must-revalidate").must_revalidate);
    if !data.contains(&b'"') {
        let has = |name: &str| {
            data.split(|b| matches!(b, b'\n' | b',')).any(|e| {
                e.trim_ascii()
                    .get(..name.len())
                    .is_some_and(|n| n.eq_ignore_ascii_case(name.as_bytes()))
            })
        };
        // It may be the beginning of another name, so only one direction holds.
        assert!(!control.no_store || has("no-store"));
        assert!(control.max_age.is_none() || has("max-age"));
        assert!(!control.public || has("public"));
    }
    let mut request = HeaderMap::new();
    let mut targeted = HeaderMap::new();
    for line in &lines {
        request.append(CACHE_CONTROL, line.clone());
        targeted.append(CDN_CACHE_CONTROL, line.clone());
    }
    let asked = RequestControl::of(&request);
    for time in [asked.max_age, asked.max_stale, asked.min_fresh] {
        assert!(time.unwrap_or(0) <= MAX);
    }
    request.append(CACHE_CONTROL, HeaderValue::from_static("only-if-cached, max-age=0"));
    let asked = RequestControl::of(&request);
    assert!(asked.only_if_cached && asked.max_age == Some(0));
    let before = ResponseControl::of(&targeted);
    targeted.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let after = ResponseControl::of(&targeted);
    assert_eq!(before.is_targeted, after.is_targeted);
    assert!(
        after.is_targeted || after.no_store,
        "without a valid targeted field the other one counts"
    );
});

fn of(lines: &[HeaderValue]) -> ResponseControl {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(CACHE_CONTROL, line.clone());
    }
    ResponseControl::of(&headers)
}

/// The order of names within a list has no meaning.
fn sorted(mut control: ResponseControl) -> ResponseControl {
    for names in [&mut control.no_cache, &mut control.private] {
        if let Some(FieldNames::Listed(names)) = names {
            names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        }
    }
    control
}
