//! Checks that no test waits for real time: it would be slow, and would fail on a slower machine.
//!
//! A test that sleeps, directly or in a function of its file, has a paused clock, which advances when all
//! tasks wait. Other tests wait for an event: a permit, a channel, an event of the system.
//! A timeout that guards against hanging is no sleep.

use std::collections::BTreeSet;

use super::source::{self, Function};

/// The ends of the names of functions that wait for the runtime's clock.
const SLEEPS: [&str; 3] = ["sleep(", "sleep_until(", "::interval("];

/// Functions whose delay is the fault that the test injects, and not a wait of the test.
const FAULTS: [(&str, &str); 1] = [("src/tests/peers/failover/faults.rs", "forward")];

#[test]
fn sleeping_tests_have_a_paused_clock() {
    let (mut wrong, mut paused) = (Vec::new(), 0);
    let files = source::functions().into_iter().filter(|(file, _)| file != "src/tests/sleep.rs");
    for (file, mut functions) in files {
        functions.retain(|f| !FAULTS.contains(&(file.as_str(), &*f.name)));
        for test in real_sleepers(&functions, &mut paused) {
            wrong.push(format!("{file}: {test}"));
        }
    }
    assert!(paused > 10, "the check finds tests that sleep with a paused clock");
    assert!(wrong.is_empty(), "they sleep in real time:\n{}", wrong.join("\n"));
}

/// Returns the tests of a file that sleep in real time, and functions that block a thread. Counts the tests with a
/// paused clock.
fn real_sleepers<'a>(functions: &'a [Function], paused: &mut usize) -> Vec<&'a str> {
    let blocks = |f: &Function| f.text.contains("thread::sleep(");
    let mut sleepers: BTreeSet<&str> = BTreeSet::new();
    loop {
        let before = sleepers.len();
        let calls = |f: &Function| {
            SLEEPS.iter().any(|name| f.text.contains(name))
                || sleepers.iter().any(|name| name_is_called(name, &f.text))
        };
        let more: Vec<&str> = functions.iter().filter(|f| calls(f)).map(|f| &*f.name).collect();
        sleepers.extend(more);
        if sleepers.len() == before {
            break;
        }
    }
    let sleeps = |f: &Function| f.test.is_some() && sleepers.contains(&*f.name);
    let is_paused = |f: &Function| f.test.as_ref().is_some_and(|t| t.contains("start_paused"));
    *paused += functions.iter().filter(|f| sleeps(f) && is_paused(f)).count();
    let wrong = |f: &&Function| blocks(f) || (sleeps(f) && !is_paused(f));
    functions.iter().filter(wrong).map(|f| &*f.name).collect()
}

fn name_is_called(name: &str, text: &str) -> bool {
    text.match_indices(&format!("{name}(")).any(|(at, _)| {
        let before = &text[..at];
        !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.')
            && !before.ends_with("fn ")
    })
}

#[test]
fn sleep_check_follows_calls_within_a_file() {
    let function = |name: &str, test: Option<&str>, text: &str| Function {
        name: name.to_owned(),
        test: test.map(str::to_owned),
        text: text.to_owned(),
    };
    let (real, paused) = (Some("#[tokio::test]"), Some("#[tokio::test(start_paused = true)]"));
    let functions = [
        function("trickle", None, "time::sleep(SEC).await;"),
        function("client", None, "fn client() { trickle().await }"),
        function("one", real, "client().await;"),
        function("two", paused, "client().await;"),
        function("three", real, "my_client().await; a.client();"),
        function("four", real, "std::thread::sleep(SEC);"),
    ];
    let mut count = 0;
    assert_eq!(real_sleepers(&functions, &mut count), ["one", "four"]);
    assert_eq!(count, 1);
}
