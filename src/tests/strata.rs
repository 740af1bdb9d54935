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
        let depth = path.iter().count();
        for target in imports(code).into_iter().chain(imports_by_super(code, depth)) {
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

/// Returns code without its comments.
fn without_comments(code: &str) -> String {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Returns the first names after each `crate::` in code (not in comments).
fn imports(code: &str) -> Vec<String> {
    let code = without_comments(code);
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

/// Returns the first names after each path of `super` that leads to the crate's root, in code of a module at this
/// depth: 1 for a top-level module.
fn imports_by_super(code: &str, depth: usize) -> Vec<String> {
    let code = without_comments(code);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("super::") {
        let before = &code[..at];
        // The rest of a longer path, and a visibility, are no imports.
        if before.ends_with("::") || before.ends_with("pub(in ") {
            continue;
        }
        let depth = depth + inline_modules(&code, at);
        let names = names_after_supers(&code[at..], 0);
        found.extend(names.into_iter().filter(|(supers, _)| *supers >= depth).map(|(_, n)| n));
    }
    found
}

/// Returns the names in a tree of paths that begin with `super`, each with the number of `super` before it.
fn names_after_supers(path: &str, supers: usize) -> Vec<(usize, String)> {
    if let Some(group) = path.strip_prefix('{') {
        let entries = entries(group).into_iter();
        return entries.flat_map(|entry| names_after_supers(entry, supers)).collect();
    }
    match path.strip_prefix("super::") {
        Some(rest) => names_after_supers(rest, supers + 1),
        None if path.starts_with('*') => vec![(supers, "*".to_owned())],
        None => vec![(supers, name(path))],
    }
}

/// Returns the number of modules of the file's own text, `mod a { .. }`, that contain the position.
fn inline_modules(code: &str, position: usize) -> usize {
    let begins = code.match_indices("mod ").filter_map(|(at, _)| {
        let end_of_line = code[at..].find('\n')? + at;
        code[at..end_of_line].trim_end().ends_with('{').then_some(end_of_line)
    });
    let contains = |begin: &usize| {
        let Some(between) = code.get(*begin..position) else { return false };
        let mut depth = 1;
        between.chars().all(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth > 0
        })
    };
    begins.filter(contains).count()
}

/// Returns the first names of the entries of `a::b, c, d::{..}, ...}`.
fn top_level(group: &str) -> Vec<String> {
    entries(group).into_iter().map(name).filter(|name| !name.is_empty()).collect()
}

/// Returns the entries of `a::b, c, d::{..}, ...}`.
fn entries(group: &str) -> Vec<&str> {
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
    entries.into_iter().map(str::trim).collect()
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn check_reads_groups_and_paths() {
    let code = "use crate::{body::{Body, Sender}, error::Error};\nlet x = crate::net::clock::now();\n// use crate::serve\n";
    assert_eq!(imports(code), ["body", "error", "net"]);
}

#[test]
fn check_reads_paths_that_lead_upward_to_the_root() {
    let code = "use super::{a, super::{conn::b, serve}};
        // use super::super::upstream;
        pub(in super::super) mod sealed {
            use super::super::d;
            fn e() { super::super::super::layer::f() }
        }
        use super::super::net::g;
    ";
    assert_eq!(imports_by_super(code, 2), ["conn", "serve", "layer", "net"]);
    assert_eq!(imports_by_super(code, 3), Vec::<String>::new());
    assert_eq!(imports_by_super("use super::body::Body;", 1), ["body"]);
    assert_eq!(imports_by_super("use super::super::*;", 2), ["*"]);
}
