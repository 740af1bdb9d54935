//! Checks that S0 and S1 have no global state, and that `semantics` contains no message syntax.

use std::fs;

use super::{super::source, STRATA};

/// The file that may cache the features of the processor. They never change, so the cache is no state. It saves two
/// loads for each block of a head.
const CPU_FEATURES: &str = "proto/h1/scan/x86.rs";

/// Parts of the names of types with interior mutability: `RefCell`, `OnceLock`.
const INTERIOR_MUTABILITY: [&str; 6] = ["Cell", "Mutex", "RwLock", "Atomic", "Once", "Lazy"];

#[test]
fn cores_have_no_state_of_their_own() {
    let cores = STRATA[0].iter().chain(STRATA[1]).copied().collect::<Vec<_>>();
    check(&cores, |file, code| if file == CPU_FEATURES { Vec::new() } else { state(code) });
}

#[test]
fn semantics_has_no_wire_format() {
    check(&["semantics"], |_, code| wire_format(code));
}

/// Asserts that `faults` returns none for the code of these modules.
fn check(modules: &[&str], faults: impl Fn(&str, &str) -> Vec<String>) {
    let root = source::repository().join("src");
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in source::files(&root, "rs") {
        let path = file.strip_prefix(&root).unwrap();
        let module = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let is_test = path.iter().any(|part| part == "tests" || part == "tests.rs");
        if is_test || !modules.contains(&module) {
            continue;
        }
        seen += 1;
        let path = path.to_str().unwrap();
        let found = faults(path, &code(&fs::read_to_string(&file).unwrap()));
        wrong.extend(found.into_iter().map(|fault| format!("{path}: {fault}")));
    }
    assert!(seen >= modules.len(), "the check finds the files of {modules:?}");
    assert_eq!(wrong, Vec::<String>::new());
}

/// Returns the code of a file without its tests and comments.
fn code(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod ").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line.split(" // ").next().unwrap(), "\n"]).collect()
}

/// Returns thread-local variables and mutable statics.
fn state(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    if code.contains("thread_local!") {
        found.push("thread_local!".to_owned());
    }
    for (at, _) in code.match_indices("static ") {
        // Not `'static`, and not a part of a name.
        if code[..at].ends_with(|c: char| c == '\'' || c.is_alphanumeric() || c == '_') {
            continue;
        }
        let declared = code[at..].split(['=', ';', '{', ')']).next().unwrap().trim();
        let changes = INTERIOR_MUTABILITY.iter().any(|part| declared.contains(part));
        if changes || declared.starts_with("static mut ") {
            found.push(declared.to_owned());
        }
    }
    found
}

/// Returns lines that have the end of a line of a message in a literal.
fn wire_format(code: &str) -> Vec<String> {
    let ends = code.lines().filter(|line| line.contains(r"\r\n"));
    ends.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn check_finds_state_and_wire_format() {
    let source = r#"
        static NAMES: [&'static str; 1] = ["a"]; // no Cell
        /// Ends in `\r\n`.
        pub(crate) static COUNT: AtomicU8 = AtomicU8::new(0);
        static mut OLD: u8 = 0;
        static SLOW: std::sync::LazyLock<
            String,
        > = LazyLock::new(String::new);
        const END: &[u8] = b"\r\n"; // \r\n
        fn name() -> &'static Cell<u8> {}
#[cfg(test)]
mod tests {
    thread_local! {}
}"#;
    let code = code(source);
    let found = state(&code);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].contains("COUNT") && found[1].contains("OLD") && found[2].contains("SLOW"));
    assert_eq!(wire_format(&code), [r#"const END: &[u8] = b"\r\n";"#]);
    let cell = "thread_local! {\n static A: Cell<u8> = const { Cell::new(0) };\n}";
    assert_eq!(state(cell).len(), 2);
}
