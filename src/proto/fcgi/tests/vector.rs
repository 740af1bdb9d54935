//! Parses vectors from Markdown; the parent module describes the format.

use crate::proto::{
    fcgi::Limits,
    h1::tests::vector::{block, quote, unescape},
};

/// One vector.
#[derive(Debug)]
pub(super) struct Vector {
    pub(super) name: String,
    pub(super) input: Vec<u8>,
    /// The methods of the requests that are sent, or `VALUES`.
    pub(super) requests: Vec<String>,
    /// The length of the first request's body, which is not sent.
    pub(super) request_body: u64,
    pub(super) without_keep_alive: bool,
    pub(super) abort: bool,
    pub(super) limits: Limits,
    pub(super) eof: bool,
    pub(super) events: Vec<String>,
}

/// Parses all vectors of one file.
pub(super) fn parse(file: &str, text: &str) -> Vec<Vector> {
    let mut vectors = Vec::new();
    let (mut name, mut input) = (String::new(), None);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            name = format!("{file}: {heading}");
        } else if line == "```records" {
            assert!(input.is_none(), "{name}: the records before have no events");
            let records = block(&mut lines);
            let records = records.iter().filter(|line| !line.is_empty());
            input = Some(records.flat_map(|line| record(&name, line)).collect());
        } else if line == "```events" {
            let input = input.take().unwrap_or_else(|| panic!("{name}: events without records"));
            vectors.push(vector(&name, input, &block(&mut lines)));
        } else {
            assert!(!line.starts_with("```"), "{name}: unknown block {line}");
        }
    }
    assert!(input.is_none(), "{name}: no events");
    vectors
}

/// Returns the bytes of a line.
fn record(name: &str, line: &str) -> Vec<u8> {
    let (words, text) = line.split_once(" \"").unwrap_or((line, ""));
    let mut content = Vec::new();
    unescape(text.strip_suffix('"').unwrap_or(text), &mut content);
    let mut words = words.split(' ');
    let kind = words.next().unwrap();
    let words: Vec<&str> = words.collect();
    let option = |name: &str, default: u8| {
        let value = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.map_or(default, |value| value.parse().unwrap())
    };
    let number = || words[0].parse::<u32>().unwrap();
    let (number_of_type, id) = match kind {
        "bytes" => return content,
        "stdout" => (6, 1),
        "stderr" => (7, 1),
        "end" => {
            content.extend_from_slice(&number().to_be_bytes());
            content.extend_from_slice(&[option("status", 0), 0, 0, 0]);
            (3, 1)
        }
        "values" => {
            let pairs: Vec<u8> = std::mem::take(&mut content);
            for pair in String::from_utf8(pairs).unwrap().split("\" \"") {
                let (name, value) = pair.split_once('=').unwrap();
                content.extend_from_slice(&[name.len() as u8, value.len() as u8]);
                content.extend_from_slice(format!("{name}{value}").as_bytes());
            }
            (10, 0)
        }
        "unknown" => {
            content.extend_from_slice(&[number() as u8, 0, 0, 0, 0, 0, 0, 0]);
            (11, 0)
        }
        "record" => (option("type", 0), 1),
        _ => panic!("{name}: unknown line `{line}`"),
    };
    let padding = option("pad", 0);
    let len = u16::try_from(content.len()).unwrap().to_be_bytes();
    let version = option("version", 1);
    let mut bytes =
        vec![version, number_of_type, 0, option("id", id), len[0], len[1], padding, 0xff];
    bytes.extend_from_slice(&content);
    bytes.resize(bytes.len() + usize::from(padding), b'P');
    bytes
}

fn vector(name: &str, input: Vec<u8>, lines: &[&str]) -> Vector {
    let mut vector = Vector {
        name: name.to_owned(),
        input,
        requests: vec!["GET".to_owned()],
        request_body: 0,
        without_keep_alive: false,
        abort: false,
        limits: Limits::default(),
        eof: false,
        events: Vec::new(),
    };
    for line in lines {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "requests" => vector.requests = rest.split_whitespace().map(str::to_owned).collect(),
            "request-body" => vector.request_body = rest.parse().unwrap(),
            "without-keep-alive" => vector.without_keep_alive = true,
            "abort" => vector.abort = true,
            "limits" => {
                vector.limits = rest.split_whitespace().fold(vector.limits, limit);
            }
            "eof" => vector.eof = true,
            "data" | "stderr" => {
                let quoted = rest.strip_prefix('"').and_then(|r| r.strip_suffix('"')).unwrap();
                let mut data = Vec::new();
                unescape(quoted, &mut data);
                vector.events.push(format!("{word} {}", quote(&data)));
            }
            "head" | "field" | "dropped" | "values" | "end" | "keep-alive" | "close" | "fault"
            | "closed" | "more" => vector.events.push((*line).to_owned()),
            _ => panic!("{name}: unknown line `{line}`"),
        }
    }
    vector
}

fn limit(limits: Limits, setting: &str) -> Limits {
    let (name, value) = setting.split_once('=').unwrap();
    let n = value.parse().unwrap();
    match name {
        "head_bytes" => limits.max_head_bytes(n),
        "fields" => limits.max_fields(n),
        "name_bytes" => limits.max_name_bytes(n),
        "stderr_bytes" => limits.max_stderr_bytes(n as u64),
        "values_bytes" => limits.max_values_bytes(n),
        _ => panic!("unknown limit {name}"),
    }
}
