//! Checks by simple rules that the names of tests are sentences with the API as their subject:
//! `dropped_sender_is_error_and_not_end`, after the number of an incident if there is one.
//!
//! - A name has three words or more.
//! - It begins with the thing that is tested: with no article, pronoun, preposition, conjunction or
//!   bare verb. So a sorted list groups the tests of a thing.
//! - A later word is a verb: it ends in `s` (`reads`, `is`), or is one of a list (`have`, `agree`).
//! - It has no words for persons (`nobody`, `whoever`).

use super::source;

/// Words that do not begin a subject.
const NO_SUBJECT: &str = "a after all an and another any anybody are as at before behind below \
    beyond but by can do does for from had has have he however if into is it its may must \
    nobody nothing nowhere of on only or others our out outside over she so some somebody \
    something than that the their there these they this those to under until was we what whatever \
    when whenever where wherever whether which whichever while who whoever whom whose with without \
    you your";

/// HTTP fields that are subjects although their first word is in the list above.
const FIELDS: [&str; 5] =
    ["if_match", "if_modified_since", "if_none_match", "if_range", "if_unmodified_since"];

/// Verbs of plural subjects.
const PLURAL_VERBS: &str = "agree are arrive can cannot cost count differ do end evict fit follow form give go have \
    keep leave lose match may must need reach reject release restrict return share stand stay survive take tell wait \
    wrap yield";

/// Words for persons.
const PERSONS: [&str; 6] = ["anybody", "everybody", "nobody", "somebody", "who", "whoever"];

#[test]
fn names_of_tests_read_as_sentences() {
    let mut wrong = Vec::new();
    for test in source::tests() {
        if let Some(fault) = fault(&test.name) {
            wrong.push(format!("{}: {}: {fault}", test.file, test.name));
        }
    }
    for name in contract() {
        if let Some(fault) = fault(&name) {
            wrong.push(format!("{name}: {fault}"));
        }
    }
    assert!(wrong.is_empty(), "see the rule in src/tests/names.rs\n{}", wrong.join("\n"));
}

/// Returns the names of the tests that every executor of workers must pass, from the list in a macro.
fn contract() -> Vec<String> {
    let list = include_str!("../worker/tests/contract.rs").lines().map(str::trim);
    let is_name = |line: &&str| {
        line.contains('_') && line.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let names: Vec<String> = list.filter(is_name).map(str::to_owned).collect();
    assert!(names.len() > 20, "the check finds the contract's tests");
    names
}

/// Returns the rule that a name violates.
fn fault(name: &str) -> Option<&'static str> {
    let name = sentence(name);
    let words: Vec<&str> = name.split('_').collect();
    let is_in = |list: &str, word: &str| list.split_whitespace().any(|entry| entry == word);
    let is_verb =
        |word: &&str| (word.ends_with('s') && !word.ends_with("ss")) || is_in(PLURAL_VERBS, word);
    if words.len() < 3 {
        Some("fewer than three words")
    } else if is_in(NO_SUBJECT, words[0]) && !FIELDS.iter().any(|field| name.starts_with(field)) {
        Some("does not begin with its subject")
    } else if !words[1..].iter().any(is_verb) {
        Some("has no verb")
    } else if words.iter().any(|word| PERSONS.contains(word)) {
        Some("speaks of persons")
    } else {
        None
    }
}

/// Returns the name without the numbers of incidents: `answer_is_late` for `s17_s18_answer_is_late`.
fn sentence(name: &str) -> &str {
    match name.split_once('_') {
        Some((first, rest)) if super::incidents::is_number(first) => sentence(rest),
        _ => name,
    }
}

#[test]
fn name_check_finds_names_that_are_not_sentences() {
    for good in ["idle_connection_owns_no_buffer", "if_range_needs_a_tag", "s1_s17_body_is_read"] {
        assert_eq!(fault(good), None, "{good}");
    }
    for (bad, why) in [
        ("body_works", "fewer"),
        ("s17_body_works", "fewer"),
        ("a_body_is_read", "begin"),
        ("is_read_at_once", "begin"),
        ("if_nothing_is_read", "begin"),
        ("body_without_length", "verb"),
        ("body_process_less", "verb"),
        ("body_is_read_by_nobody", "persons"),
    ] {
        assert!(fault(bad).is_some_and(|fault| fault.contains(why)), "{bad}");
    }
}
