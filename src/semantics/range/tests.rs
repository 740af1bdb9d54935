use super::*;

fn part(first: u64, last: u64) -> Part {
    Part::Slice { first, last }
}

#[test]
fn single_ranges_are_cut_to_the_content() {
    let table = [
        ("bytes=0-0", part(0, 0)),
        ("bytes=0-9", part(0, 9)),
        ("bytes=0-10", part(0, 9)),
        ("bytes=9-", part(9, 9)),
        ("BYTES=1-2", part(1, 2)),
        (" bytes= 1-2 ", part(1, 2)),
        ("bytes=-1", part(9, 9)),
        ("bytes=-10", part(0, 9)),
        ("bytes=-11", part(0, 9)),
    ];
    for (value, want) in table {
        assert_eq!(parse(value.as_bytes(), 10), want, "{value}");
    }
}

#[test]
fn range_beyond_the_end_is_unsatisfiable() {
    for value in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
        assert_eq!(parse(value.as_bytes(), 10), Part::Unsatisfiable, "{value}");
    }
    for value in ["bytes=0-", "bytes=0-1023", "bytes=-5", "bytes=0-0,-5", "bytes=7-"] {
        assert_eq!(parse(value.as_bytes(), 0), Part::Whole, "{value} of nothing");
    }
}

#[test]
fn range_numbers_beyond_u64_saturate() {
    let big = "9".repeat(200);
    assert_eq!(parse(format!("bytes={big}-").as_bytes(), 10), Part::Unsatisfiable);
    assert_eq!(parse(format!("bytes={big}-{big}").as_bytes(), 10), Part::Unsatisfiable);
    assert_eq!(parse(format!("bytes=3-{big}").as_bytes(), 10), part(3, 9));
    assert_eq!(parse(format!("bytes=-{big}").as_bytes(), 10), part(0, 9));
    // The shape of CVE-2017-7529: suffix and length together wrapped around.
    assert_eq!(
        parse(b"bytes=-9223372036854775608", u64::MAX),
        part(9223372036854776007, u64::MAX - 1)
    );
}

#[test]
fn several_ranges_are_parts_in_the_requested_order() {
    let table = [
        ("bytes=0-1,500-501", vec![(0, 1), (500, 501)]),
        ("bytes=500-501 , 0-1", vec![(500, 501), (0, 1)]),
        ("bytes=,0-1,,900-,", vec![(0, 1), (900, 999)]),
        ("bytes=0-1,-1,2000-", vec![(0, 1), (999, 999)]),
        ("bytes=0-1,82-82,200-300", vec![(0, 82), (200, 300)]),
        ("bytes=0-1,83-83", vec![(0, 1), (83, 83)]),
        // In the gap of two that would be joined.
        ("bytes=0-10,50-60,500-600,20-30", vec![(0, 10), (50, 60), (500, 600), (20, 30)]),
        ("bytes=900-901,0-10,50-60", vec![(900, 901), (0, 60)]),
    ];
    for (value, want) in table {
        assert_eq!(parse(value.as_bytes(), 1000), Part::Several(want), "{value}");
    }
    assert_eq!(parse(b"bytes=0-1,2000-", 1000), part(0, 1));
    assert_eq!(parse(b"bytes=0-1,2-3", 1000), part(0, 3));
    assert_eq!(parse(b"bytes=-1,", 10), part(9, 9));
    // Head and tail of a content that is shorter than both.
    for value in ["bytes=0-0,-1", "bytes=0-1023,-1024", "bytes=-1024,0-1023", "bytes=0-,0-"] {
        assert_eq!(parse(value.as_bytes(), 1), part(0, 0), "{value}");
    }
    assert_eq!(parse(b"bytes=0-10,50-60,20-30,40-45", 1000), part(0, 60));
    assert_eq!(parse(b"bytes=300-400,0-350", 1000), part(0, 400));
    assert_eq!(parse(b"bytes=0-500,300-400", 1000), part(0, 500));
}

#[test]
fn parts_that_overlap_are_refused_and_too_many_ignored() {
    for value in [
        "bytes=0-,0-,0-",
        "bytes=0-500,300-400,200-600",
        "bytes=0-500,600-700,0-500",
        "bytes=0-1,1-2,900-901,901-902",
        "bytes=0-100,500-600,50-60",
        "bytes=0-10,50-60,500-600,20-30,25-26",
        "bytes=2000-,3000-",
    ] {
        assert_eq!(parse(value.as_bytes(), 1000), Part::Unsatisfiable, "{value}");
    }
    let some = |n: usize| {
        let specs: Vec<_> = (0..n).map(|i| format!("{0}-{0}", i * 100)).collect();
        parse(format!("bytes={}", specs.join(",")).as_bytes(), u64::MAX)
    };
    assert!(matches!(some(MAX_PARTS), Part::Several(parts) if parts.len() == MAX_PARTS));
    assert_eq!(some(MAX_PARTS + 1), Part::Whole);
    let many = format!("bytes={}", "0-0,".repeat(10_000));
    assert_eq!(parse(many.as_bytes(), 10), Part::Whole);
    assert_eq!(parse(b"bytes=,,", 10), Part::Whole);
    assert_eq!(parse(b"bytes=0-1,x", 10), Part::Whole);
}

#[test]
fn requested_byte_is_in_exactly_one_part() {
    // Some thousand lists of up to five parts, against the plain definition.
    let mut seed = 1_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    for _ in 0..5_000 {
        let mut asked = Vec::new();
        for _ in 0..=random(5) {
            let first = random(600);
            asked.push((first, first + random(120)));
        }
        let specs: Vec<_> = asked.iter().map(|(f, l)| format!("{f}-{l}")).collect();
        let value = format!("bytes={}", specs.join(","));
        let parts = match parse(value.as_bytes(), 1000) {
            Part::Slice { first, last } => vec![(first, last)],
            Part::Several(parts) => parts,
            Part::Unsatisfiable => {
                assert!(overlaps(&asked) > 0, "{value}");
                continue;
            }
            Part::Whole => panic!("{value}"),
        };
        assert!(parts.len() <= asked.len() && overlaps(&parts) == 0, "{value} {parts:?}");
        for (first, last) in asked {
            assert!(parts.iter().any(|p| p.0 <= first && last <= p.1), "{value} {parts:?}");
        }
    }
}

#[test]
fn malformed_ranges_and_other_units_are_ignored() {
    for value in [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-3",
        "bytes=1",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes 0-1",
        "bytes=1-2-3",
        "bytes=--1",
        "seconds=0-1",
        "=0-1",
    ] {
        assert_eq!(parse(value.as_bytes(), 10), Part::Whole, "{value}");
    }
}

#[test]
fn range_applies_only_to_get_and_only_once() {
    let mut headers = HeaderMap::new();
    headers.append(header::RANGE, HeaderValue::from_static("bytes=0-1"));
    assert_eq!(requested(&Method::GET, &headers, 10), part(0, 1));
    assert_eq!(requested(&Method::HEAD, &headers, 10), Part::Whole);
    headers.append(header::RANGE, HeaderValue::from_static("bytes=2-3"));
    assert_eq!(requested(&Method::GET, &headers, 10), Part::Whole);
}
