//! Checks the strata: no import points up or sideways.

mod purity;

use std::{collections::BTreeMap, fs};

use super::source;

/// The top-level modules of each stratum, lowest first; see ARCHITECTURE.md.
const STRATA: [&[&str]; 6] = [
    &["body", "budget", "error", "peer", "service", "sync"],
    &["proto", "semantics", "policy"],
    &["net"],
    &["conn"],
    &["cache", "layer", "files", "upstream", "worker", "route"],
    &["serve", "guide"],
];

/// The re-exports of the crate's root, and their modules.
const AT_ROOT: [(&str, &str); 7] = [
    ("Body", "body"),
    ("Budget", "budget"),
    ("BoxError", "error"),
    ("Error", "error"),
    ("HttpService", "service"),
    ("Request", "body"),
    ("Response", "body"),
];

#[test]
fn every_import_points_downward() {
    let rooms: BTreeMap<&str, usize> = STRATA
        .iter()
        .enumerate()
        .flat_map(|(level, rooms)| rooms.iter().map(move |room| (*room, level)))
        .collect();
    let root = source::repository().join("src");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in source::files(&root, "rs") {
        let path = file.strip_prefix(&root).unwrap();
        let room = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if matches!(room, "lib" | "tests") || path.ends_with("tests.rs") {
            continue;
        }
        let level = *rooms.get(room).unwrap_or_else(|| panic!("{room} has no stratum"));
        let source = fs::read_to_string(&file).unwrap();
        let code = source.split("#[cfg(test)]\nmod ").next().unwrap();
        for target in imports(code) {
            seen += 1;
            let of = AT_ROOT.iter().find(|(name, _)| *name == target).map_or(&*target, |(_, r)| r);
            let to =
                *rooms.get(of).unwrap_or_else(|| panic!("{}: crate::{target}?", path.display()));
            // Modules may import from themselves, and those of S0 and S1 from their own stratum.
            let sideways = of != room && to == level && level > 0;
            if to > level || sideways {
                wrong.push(format!("{}: {room} -> {of}", path.display()));
            }
        }
    }
    assert!(seen > 50, "the check finds imports at all");
    assert_eq!(wrong, Vec::<String>::new(), "an arrow points up or sideways");
}

/// Returns the first names after each `crate::` in code (not in comments).
fn imports(code: &str) -> Vec<String> {
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(top_level(group)),
            None => found.push(name(rest)),
        }
    }
    found
}

/// Returns the first names of the entries of `a::b, c, d::{..}, ...}`.
fn top_level(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut entries) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                entries.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                entries.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    entries.into_iter().map(|e| name(e.trim())).filter(|n| !n.is_empty()).collect()
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn check_reads_groups_and_paths() {
    let code = "use crate::{body::{Body, Sender}, error::Error};\nlet x = crate::net::clock::now();\n// use crate::serve\n";
    assert_eq!(imports(code), ["body", "error", "net"]);
}
