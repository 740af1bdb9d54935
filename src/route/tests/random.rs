//! Random tables and requests, resolved by the router and by a linear search.

use std::collections::HashSet;

use super::*;

/// xorshift64: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn is_one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Few letters make matches frequent, more make the table wide.
    fn word(&mut self, letters: u64) -> String {
        let letter = char::from(b'a' + self.below(letters) as u8);
        if letters > 3 { format!("{letter}{}", self.below(20)) } else { letter.to_string() }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Pattern {
    segments: Vec<Segment>,
    is_prefix: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Segment {
    Literal(String),
    Param,
    Rest,
}

impl Pattern {
    fn random(random: &mut Random, letters: u64) -> Self {
        let is_prefix = random.is_one_in(3);
        let mut segments: Vec<_> = (0..random.below(5))
            .map(|_| match random.below(4) {
                0 => Segment::Param,
                _ => Segment::Literal(random.word(letters)),
            })
            .collect();
        if !is_prefix {
            match random.below(6) {
                0 => segments.push(Segment::Rest),
                1 => segments.push(Segment::Literal(String::new())),
                _ if segments.is_empty() => segments.push(Segment::Param),
                _ => {}
            }
        }
        Self { segments, is_prefix }
    }

    fn text(&self) -> String {
        let segments = self.segments.iter().enumerate().map(|(i, segment)| match segment {
            Segment::Literal(text) => format!("/{text}"),
            Segment::Param => format!("/{{p{i}}}"),
            Segment::Rest => "/{*rest}".to_owned(),
        });
        let text: String = segments.collect();
        if text.is_empty() { "/".to_owned() } else { text }
    }

    /// The rank of each step of the match with `path`, if it matches; the greatest list wins.
    fn ranks(&self, path: &[&str]) -> Option<Vec<u8>> {
        let mut ranks = Vec::new();
        for (i, segment) in self.segments.iter().enumerate() {
            let part = path.get(i);
            ranks.push(match segment {
                Segment::Literal(text) if part == Some(&text.as_str()) => 3,
                Segment::Param if part.is_some_and(|part| !part.is_empty()) => 2,
                Segment::Rest if part.is_some() && !path[i..].join("/").is_empty() => {
                    return Some([ranks, vec![1]].concat());
                }
                Segment::Literal(_) | Segment::Param | Segment::Rest => return None,
            });
        }
        if self.is_prefix {
            ranks.push(0);
            Some(ranks)
        } else {
            (path.len() == self.segments.len()).then(|| [ranks, vec![3]].concat())
        }
    }

    fn values(&self, path: &[&str]) -> Vec<String> {
        let parts = self.segments.iter().enumerate().filter_map(|(i, segment)| match segment {
            Segment::Literal(_) => None,
            Segment::Param => Some(path[i].to_owned()),
            Segment::Rest => Some(path[i..].join("/")),
        });
        parts.collect()
    }
}

/// Compares the table with the linear search over `patterns`. Returns how many paths matched.
fn check_paths(random: &mut Random, patterns: &[Pattern], letters: u64, paths: usize) -> usize {
    let mut table = PathTable::default();
    let service = erase(named(""));
    for pattern in patterns {
        let text = pattern.text();
        let (parsed, mode) = if pattern.is_prefix {
            (super::Pattern::parse_prefix(&text), Mode::Prefix)
        } else {
            (super::Pattern::parse(&text), Mode::Exact)
        };
        table.insert(&text, &parsed.unwrap(), mode, service.clone()).unwrap();
    }
    let mut matched = 0;
    for _ in 0..paths {
        let mut parts: Vec<_> = (0..=random.below(6)).map(|_| random.word(letters)).collect();
        if random.is_one_in(3) {
            let at = random.below(parts.len() as u64) as usize;
            parts[at].clear();
        }
        let path = format!("/{}", parts.join("/"));
        let parts: Vec<_> = path[1..].split('/').collect();
        let want = patterns.iter().filter_map(|p| p.ranks(&parts).map(|ranks| (ranks, p)));
        let want =
            want.max_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, p)| (p.text(), p.values(&parts)));
        let found = table.find(&path).map(|entry| {
            let values = entry.capture(&path).iter().map(|(_, value)| value.to_owned()).collect();
            (entry.pattern().to_owned(), values)
        });
        matched += usize::from(found.is_some());
        assert_eq!(found, want, "{path}");
    }
    matched
}

fn distinct(random: &mut Random, letters: u64, n: usize) -> Vec<Pattern> {
    let mut patterns = HashSet::new();
    let mut ordered = Vec::new();
    while ordered.len() < n {
        let pattern = Pattern::random(random, letters);
        if patterns.insert(pattern.clone()) {
            ordered.push(pattern);
        }
    }
    ordered
}

#[test]
fn small_random_tables_match_as_a_linear_search_does() {
    let random = &mut Random(0x9e37_79b9_7f4a_7c15);
    let mut matched = 0;
    for _ in 0..300 {
        let n = 1 + random.below(30) as usize;
        let patterns = distinct(random, 3, n);
        matched += check_paths(random, &patterns, 3, 100);
    }
    assert!((3_000..27_000).contains(&matched), "{matched} of 30,000 match");
}

#[test]
fn ten_thousand_random_routes_match_as_a_linear_search_does() {
    let random = &mut Random(0x2545_f491_4f6c_dd1d);
    let patterns = distinct(random, 20, 10_000);
    let matched = check_paths(random, &patterns, 20, 400);
    assert!(matched > 100, "{matched} of 400 match");
}

#[tokio::test]
async fn ten_thousand_random_hosts_match_as_a_linear_search_does() {
    let random = &mut Random(0x1234_5678_9abc_def1);
    let name = |random: &mut Random, labels: u64| {
        let labels: Vec<_> = (0..=labels).map(|_| random.word(8)).collect();
        labels.join(".")
    };
    let mut hosts = HashSet::new();
    while hosts.len() < 10_000 {
        let labels = random.below(4);
        let star = if random.is_one_in(2) { "*." } else { "" };
        hosts.insert(format!("{star}{}", name(random, labels)));
    }
    let answer = |text: String| {
        service_fn(move |_: Request<Body>| {
            let text = text.clone();
            async { Ok::<_, Infallible>(Response::new(Body::from(text))) }
        })
    };
    let router = hosts.iter().fold(Router::new(), |r, host| r.host(host, answer(host.clone())));
    for _ in 0..1_000 {
        let labels = random.below(6);
        let asked = name(random, labels);
        let wildcards = hosts
            .iter()
            .filter(|host| host.strip_prefix('*').is_some_and(|below| asked.ends_with(below)));
        let wildcard = wildcards.max_by_key(|host| host.len());
        let want = hosts.get(&asked).or(wildcard).map_or("!404", |host| host);
        let upper = if random.is_one_in(2) { asked.to_uppercase() } else { asked };
        assert_eq!(get(&router, "/", &format!("{upper}:80")).await, want, "{upper}");
    }
}
