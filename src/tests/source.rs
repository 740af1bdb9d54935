//! Reads the files of the repository, for checks.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns the directory of `Cargo.toml`.
pub(super) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all files below a directory with this extension.
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

/// A function of test code.
pub(super) struct Function {
    pub(super) name: String,
    /// Its test attribute, `#[test]` or one of Tokio, if it has one.
    pub(super) test: Option<String>,
    /// Its text, from the first line to the closing brace.
    pub(super) text: String,
}

/// A test of the crate or of its examples.
pub(super) struct Test {
    /// The path of its file from the repository's root.
    pub(super) file: String,
    /// The name of its function.
    pub(super) name: String,
}

/// Returns all tests of the crate and of its examples.
pub(super) fn tests() -> Vec<Test> {
    let mut found = Vec::new();
    for (file, functions) in functions() {
        let tests = functions.into_iter().filter(|function| function.test.is_some());
        found.extend(tests.map(|test| Test { file: file.clone(), name: test.name }));
    }
    assert!(found.len() > 500, "the check finds the tests");
    found
}

/// Returns the functions in the test code of each file, with the path from the repository's root.
pub(super) fn functions() -> Vec<(String, Vec<Function>)> {
    let mut found = Vec::new();
    for directory in ["src", "examples"] {
        for path in files(&repository().join(directory), "rs") {
            let file = path.strip_prefix(repository()).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            let is_test = |part: &std::ffi::OsStr| {
                ["tests", "tests.rs", "models.rs"].iter().any(|name| part == *name)
            };
            let text = if file.iter().any(is_test) {
                &*text
            } else {
                text.find("#[cfg(test)]\nmod ").map_or("", |at| &text[at..])
            };
            found.push((file.to_str().unwrap().to_owned(), functions_of(text)));
        }
    }
    found
}

fn functions_of(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut found, mut test) = (Vec::new(), None);
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        if ["#[test]", "#[tokio::test"].iter().any(|start| code.starts_with(start)) {
            test = Some(code.to_owned());
        }
        let Some(name) = function(code) else { continue };
        let test = test.take();
        // In the definition of a macro the name is a parameter.
        if name.is_empty() {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let length = if code.ends_with('}') {
            0
        } else {
            lines[at..].iter().position(|line| **line == end).unwrap_or(0)
        };
        let text = lines[at..=at + length].join("\n");
        found.push(Function { name: name.to_owned(), test, text });
    }
    found
}

/// Returns the name of the function that begins in a line; empty if it is a parameter of a macro.
fn function(line: &str) -> Option<&str> {
    let words = ["pub(crate) ", "pub(super) ", "pub ", "const ", "async "];
    let line = words.iter().fold(line, |line, word| line.strip_prefix(word).unwrap_or(line));
    let rest = line.strip_prefix("fn ")?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    Some(&rest[..end])
}

#[test]
fn source_reader_finds_functions_and_where_they_end() {
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
    pub(super) fn helper() {}
    #[test]
    fn $test() {}
";
    let functions = functions_of(text);
    let names: Vec<&str> = functions.iter().map(|function| &*function.name).collect();
    assert_eq!(names, ["first_name_is_found", "second_name_is_found", "helper"]);
    assert_eq!(functions[0].test.as_deref(), Some("#[tokio::test(start_paused = true)]"));
    assert!(functions[0].text.ends_with("\n        }\n    }"));
    assert!(!functions[1].text.contains("helper") && functions[2].test.is_none());
}
