//! Checks that each number of an incident has a row in `incidents.md`, and that the tests of a row exist.

use std::{collections::BTreeSet, fs};

use super::source;

const TABLE: &str = include_str!("incidents.md");

/// The directory of the vectors of HTTP/1.
const VECTORS: &str = "src/proto/h1/vectors";

/// Returns whether a word is the number of an incident, in either case: `s17`, `R4`.
pub(super) fn is_number(word: &str) -> bool {
    let mut bytes = word.bytes();
    bytes.next().is_some_and(|letter| letter.is_ascii_alphabetic())
        && word.len() > 1
        && bytes.all(|digit| digit.is_ascii_digit())
}

#[test]
fn numbers_of_incidents_stand_in_the_table() {
    let rows: BTreeSet<&str> = rows().map(|(number, _)| number).collect();
    let mut used = BTreeSet::new();
    for test in source::tests() {
        let numbers = test.name.split('_').take_while(|word| is_number(word));
        used.extend(numbers.map(|number| (number.to_uppercase(), test.name.clone())));
    }
    for path in source::files(&source::repository().join(VECTORS), "md") {
        for heading in fs::read_to_string(&path).unwrap().lines() {
            let Some(heading) = heading.strip_prefix("## ") else { continue };
            let number = heading.split(' ').next().unwrap();
            if is_number(number) {
                used.insert((number.to_owned(), heading.to_owned()));
            }
        }
    }
    assert!(used.len() > 100, "the check finds numbers");
    let missing: Vec<_> = used.iter().filter(|(number, _)| !rows.contains(&**number)).collect();
    assert!(missing.is_empty(), "without a row in src/tests/incidents.md: {missing:?}");
}

#[test]
fn table_of_incidents_names_existing_tests() {
    let tests: BTreeSet<String> = source::tests().into_iter().map(|test| test.name).collect();
    let contract = include_str!("../worker/tests/contract.rs");
    let mut missing = Vec::new();
    for (number, proofs) in rows() {
        let named: Vec<&str> = proofs.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{number} names no test");
        for name in named {
            let exists = if name.ends_with(".md") {
                let vectors = source::repository().join(VECTORS).join(name);
                let text = fs::read_to_string(vectors).unwrap_or_default();
                text.contains(&format!("## {number} "))
            } else {
                tests.contains(name) || contract.lines().any(|line| line.trim() == name)
            };
            if !exists {
                missing.push(format!("{number}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "named in src/tests/incidents.md: {missing:?}");
}

/// Returns the number and the tests of each row.
fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
        let number = cells.next().filter(|cell| is_number(cell))?;
        Some((number, cells.nth(1).expect("a row has three cells")))
    })
}
