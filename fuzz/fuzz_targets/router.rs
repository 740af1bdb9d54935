//! Invariant: the router selects the same route as a linear search over its patterns, with the same
//! parameters and the same path below the prefix, for any spelling of the path.
#![no_main]

use std::{
    collections::HashSet,
    convert::Infallible,
    future::{Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::{Request, Response};
use libfuzzer_sys::{arbitrary, arbitrary::Arbitrary, fuzz_target};
use tower_service::Service;
use vestibule::{Body, PathParams, Router};

#[derive(Arbitrary, Debug)]
struct Input {
    patterns: Vec<Pattern>,
    paths: Vec<Vec<Word>>,
}

#[derive(Arbitrary, Debug, Clone, PartialEq, Eq, Hash)]
struct Pattern {
    segments: Vec<Segment>,
    end: End,
}

#[derive(Arbitrary, Debug, Clone, PartialEq, Eq, Hash)]
enum Segment {
    Literal(Letter),
    Param,
}

#[derive(Arbitrary, Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    /// Matches the whole path.
    Exact,
    /// Matches the whole path, with a trailing slash.
    Slash,
    /// Matches `{*rest}`.
    Rest,
    /// Matches all paths below, unchanged.
    Prefix,
    /// Matches all paths below, and removes the prefix.
    Nest,
}

/// Few segments, so that matches are frequent; one is not ASCII, one stays escaped in normal form.
#[derive(Arbitrary, Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Letter {
    A,
    B,
    Umlaut,
    Slash,
}

/// A segment of a request's path, and whether its letter is escaped without need.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum Word {
    Empty,
    Letter(Letter, bool),
}

impl Letter {
    /// In normal form.
    fn text(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Umlaut => "\u{fc}",
            Self::Slash => "x%2Fy",
        }
    }
}

impl Word {
    fn text(self) -> &'static str {
        match self {
            Self::Empty => "",
            Self::Letter(letter, _) => letter.text(),
        }
    }

    fn raw(self) -> &'static str {
        match self {
            Self::Letter(Letter::A, true) => "%61",
            Self::Letter(Letter::B, true) => "%62",
            Self::Letter(Letter::Umlaut, _) => "%C3%bc",
            Self::Letter(Letter::Slash, true) => "%78%2fy",
            _ => self.text(),
        }
    }
}

impl Pattern {
    fn text(&self) -> String {
        let segments = self.segments.iter().enumerate().map(|(i, segment)| match segment {
            Segment::Literal(letter) => format!("/{}", letter.text()),
            Segment::Param => format!("/{{p{i}}}"),
        });
        let mut text: String = segments.collect();
        match self.end {
            End::Slash => text += "/",
            End::Rest => text += "/{*rest}",
            End::Exact | End::Prefix | End::Nest if text.is_empty() => text += "/",
            End::Exact | End::Prefix | End::Nest => {}
        }
        text
    }

    /// Returns the specificity of each segment of the match, and the values; `None` without a match.
    fn matches(&self, path: &[&str]) -> Option<(Vec<u8>, Vec<String>)> {
        let (mut ranks, mut values) = (Vec::new(), Vec::new());
        for (i, segment) in self.segments.iter().enumerate() {
            let part = *path.get(i)?;
            match segment {
                Segment::Literal(letter) if part == letter.text() => ranks.push(3),
                Segment::Param if !part.is_empty() => {
                    ranks.push(2);
                    values.push(part.to_owned());
                }
                _ => return None,
            }
        }
        let left = &path[self.segments.len()..];
        match self.end {
            End::Exact if self.segments.is_empty() && left == [""] => ranks.extend([3, 3]),
            End::Exact if !self.segments.is_empty() && left.is_empty() => ranks.push(3),
            End::Slash if left == [""] => ranks.extend([3, 3]),
            End::Rest if !left.join("/").is_empty() => {
                ranks.push(1);
                values.push(left.join("/"));
            }
            End::Prefix | End::Nest => ranks.push(0),
            _ => return None,
        }
        Some((ranks, values))
    }

    /// Returns the shape of the pattern. Two patterns of the same shape conflict.
    fn shape(&self) -> (Vec<Segment>, End) {
        let end = match self.end {
            End::Nest => End::Prefix,
            End::Exact if self.segments.is_empty() => End::Slash,
            end => end,
        };
        (self.segments.clone(), end)
    }
}

/// A service that responds with its number, its parameters and its path.
#[derive(Clone)]
struct Named(usize);

impl Service<Request<Body>> for Named {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let params = request.extensions().get::<PathParams>();
        let values = params.into_iter().flat_map(|p| p.iter()).map(|(_, value)| value.to_owned());
        let seen = Seen(self.0, values.collect(), request.uri().path().to_owned());
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(seen);
        ready(Ok(response))
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Seen(usize, Vec<String>, String);

fuzz_target!(|input: Input| {
    let mut shapes = HashSet::new();
    let mut patterns = input.patterns;
    patterns.retain(|p| p.segments.len() < 8 && shapes.insert(p.shape()));
    let mut router = Router::new();
    for (i, pattern) in patterns.iter().enumerate() {
        let text = pattern.text();
        router = match pattern.end {
            End::Exact | End::Slash | End::Rest => router.route(&text, Named(i)),
            End::Prefix => router.prefix(&text, Named(i)),
            End::Nest => router.nest(&text, Named(i)),
        };
    }
    for words in input.paths.iter().filter(|words| !words.is_empty()) {
        let raw: Vec<&str> = words.iter().map(|word| word.raw()).collect();
        let path = format!("/{}", raw.join("/"));
        let Ok(request) = Request::get(&path).body(Body::empty()) else { continue };
        let mut answer = pin!(router.call(request));
        let answer = answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(response)) = answer else { panic!("no service waits") };
        let found = response.extensions().get::<Seen>().cloned();
        assert_eq!(found, expected(&patterns, words, &path), "{path}");
    }
});

fn expected(patterns: &[Pattern], words: &[Word], path: &str) -> Option<Seen> {
    let parts: Vec<&str> = words.iter().map(|word| word.text()).collect();
    let matches = patterns.iter().enumerate();
    let matches = matches.filter_map(|(i, p)| p.matches(&parts).map(|(r, values)| (r, i, values)));
    let (_, i, values) = matches.max_by(|(a, ..), (b, ..)| a.cmp(b))?;
    let below = |n: usize| {
        let raw: Vec<&str> = words.iter().skip(n).map(|word| word.raw()).collect();
        format!("/{}", raw.join("/"))
    };
    let nested = patterns[i].end == End::Nest;
    let path = if nested { below(patterns[i].segments.len()) } else { path.to_owned() };
    Some(Seen(i, values, path))
}
