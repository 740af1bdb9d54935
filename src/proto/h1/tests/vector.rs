//! Reads vectors from Markdown; the parent module describes the format.

use http::Method;

use crate::proto::h1::{Lenient, Limits};

/// One vector.
#[derive(Debug)]
pub(super) struct Vector {
    pub(super) name: String,
    pub(super) input: Vec<u8>,
    /// Whether the bytes are responses; the methods of their requests.
    pub(super) client: bool,
    pub(super) answers: Vec<Method>,
    pub(super) limits: Limits,
    pub(super) eof: bool,
    pub(super) events: Vec<String>,
}

/// Returns all vectors of one file.
pub(super) fn parse(file: &str, text: &str) -> Vec<Vector> {
    let client = file.starts_with("response");
    let mut vectors = Vec::new();
    let (mut name, mut input) = (String::new(), None);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            name = format!("{file}: {heading}");
        } else if line == "```http" {
            assert!(input.is_none(), "{name}: an http block without events before this one");
            input = Some(bytes(&block(&mut lines)));
        } else if line == "```events" {
            let input = input.take().unwrap_or_else(|| panic!("{name}: events of nothing"));
            vectors.push(vector(&name, client, input, &block(&mut lines)));
        } else {
            assert!(!line.starts_with("```"), "{name}: unknown block {line}");
        }
    }
    assert!(input.is_none(), "{name}: no events");
    vectors
}

pub(in crate::proto) fn block<'a>(lines: &mut std::str::Lines<'a>) -> Vec<&'a str> {
    lines.take_while(|line| *line != "```").collect()
}

/// Returns the bytes of an `http` block.
fn bytes(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let open = line.ends_with('\\') && !line.ends_with("\\\\");
        unescape(if open { &line[..line.len() - 1] } else { line }, &mut bytes);
        if !open {
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes
}

fn vector(name: &str, client: bool, input: Vec<u8>, lines: &[&str]) -> Vector {
    let mut vector = Vector {
        name: name.to_owned(),
        input,
        client,
        answers: vec![Method::GET],
        limits: Limits::default(),
        eof: false,
        events: Vec::new(),
    };
    for line in lines {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "answers" => {
                vector.client = true;
                vector.answers = rest.split_whitespace().map(|m| m.parse().unwrap()).collect();
            }
            "limits" => rest.split_whitespace().for_each(|l| limit(l, &mut vector.limits)),
            "lenient" => {
                rest.split_whitespace().for_each(|l| lenient(l, &mut vector.limits.lenient))
            }
            "connect" => vector.limits.connect = true,
            "eof" => vector.eof = true,
            "data" => {
                let quoted = rest.strip_prefix('"').and_then(|r| r.strip_suffix('"')).unwrap();
                let mut data = Vec::new();
                unescape(quoted, &mut data);
                vector.events.push(format!("data {}", quote(&data)));
            }
            "head" | "field" | "expects" | "trailer" | "end" | "keep-alive" | "close" | "fault"
            | "more" => vector.events.push((*line).to_owned()),
            _ => panic!("{name}: unknown line `{line}`"),
        }
    }
    vector
}

fn limit(setting: &str, limits: &mut Limits) {
    let (name, value) = setting.split_once('=').unwrap();
    let member = match name {
        "head_bytes" => &mut limits.head_bytes,
        "start_line_bytes" => &mut limits.start_line_bytes,
        "method_bytes" => &mut limits.method_bytes,
        "fields" => &mut limits.fields,
        "name_bytes" => &mut limits.name_bytes,
        "chunk_extension_bytes" => &mut limits.chunk_extension_bytes,
        "trailer_bytes" => &mut limits.trailer_bytes,
        "interim_responses" => &mut limits.interim_responses,
        _ => panic!("no limit is called {name}"),
    };
    *member = value.parse().unwrap();
}

fn lenient(name: &str, lenient: &mut Lenient) {
    let switch = match name {
        "bare_lf" => &mut lenient.bare_lf,
        "folded_lines" => &mut lenient.folded_lines,
        "space_before_colon" => &mut lenient.space_before_colon,
        "repeated_content_length" => &mut lenient.repeated_content_length,
        _ => panic!("no leniency is called {name}"),
    };
    *switch = true;
}

pub(in crate::proto) fn unescape(text: &str, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = rest.as_bytes()[at + 1];
        rest = &rest[at + 2..];
        match escape {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'0' => out.push(0),
            b'\\' | b'"' => out.push(escape),
            b'x' => {
                out.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            b'{' => {
                let (inside, after) = rest.split_once('}').unwrap();
                let (times, what) = inside.split_once(' ').unwrap();
                let mut once = Vec::new();
                unescape(what, &mut once);
                out.extend(once.repeat(times.parse().unwrap()));
                rest = after;
            }
            other => panic!("unknown escape \\{}", other as char),
        }
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Formats bytes as after `data`.
pub(in crate::proto) fn quote(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii().to_string().replace("\\'", "'"))
}
