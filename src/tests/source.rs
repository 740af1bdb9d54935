//! Reads the repository's own files, for the checks of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder of `Cargo.toml`.
pub(super) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder whose names end in `.extension`.
pub(super) fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}

/// A test of the crate or of its examples.
pub(super) struct Test {
    /// Its file, from the repository's root.
    pub(super) file: String,
    /// Its function.
    pub(super) name: String,
    /// Its attribute, `#[test]` or one of tokio's.
    pub(super) attribute: String,
    /// Its lines, from the attribute to the brace that ends it.
    pub(super) text: String,
}

/// All tests of the crate and of its examples.
pub(super) fn tests() -> Vec<Test> {
    let mut found = Vec::new();
    for folder in ["src", "examples"] {
        for path in files(&repository().join(folder), "rs") {
            let file = path.strip_prefix(repository()).unwrap().to_str().unwrap();
            found.extend(tests_of(file, &fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(found.len() > 500, "the check finds the tests");
    found
}

/// The tests in the text of a file.
fn tests_of(file: &str, text: &str) -> Vec<Test> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let attribute = line.trim_start();
        if !["#[test]", "#[tokio::test"].iter().any(|start| attribute.starts_with(start)) {
            continue;
        }
        let Some(name) = lines[at..].iter().find_map(|line| function(line)) else { continue };
        // A test of a macro has a name that the macro is given.
        if name.is_empty() {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - attribute.len()]);
        let length = lines[at..].iter().position(|line| **line == end).unwrap_or(0);
        found.push(Test {
            file: file.to_owned(),
            name: name.to_owned(),
            attribute: attribute.to_owned(),
            text: lines[at..=at + length].join("\n"),
        });
    }
    found
}

/// The name of the function that a line begins, which is empty if a macro gives it.
fn function(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("async ").unwrap_or(line);
    let rest = line.strip_prefix("fn ")?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    Some(&rest[..end])
}

#[test]
fn source_reader_finds_tests_and_where_they_end() {
    let text = r"
    #[tokio::test(start_paused = true)]
    #[cfg_attr(miri, ignore)]
    async fn first_name_is_found() {
        if true {
        }
    }

    #[test]
    fn second_name_is_found() {
    }
    fn helper() {}
    #[test]
    fn $test() {}
";
    let tests = tests_of("a.rs", text);
    let names: Vec<&str> = tests.iter().map(|test| &*test.name).collect();
    assert_eq!(names, ["first_name_is_found", "second_name_is_found"]);
    assert_eq!(tests[0].attribute, "#[tokio::test(start_paused = true)]");
    assert!(tests[0].text.ends_with("\n        }\n    }") && !tests[1].text.contains("helper"));
}
