//! Checks links between the Markdown files of the repository. rustdoc checks those of the code.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::source;

#[test]
fn links_of_markdown_files_lead_to_files_and_headings() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in documents() {
        for target in links(&fs::read_to_string(&file).unwrap()) {
            // Links to the web, and those that rustdoc checks.
            let is_rustdoc = target.contains("::") || target.starts_with("crate#");
            if target.contains("://") || is_rustdoc {
                continue;
            }
            seen += 1;
            if !leads_somewhere(&file, &target) {
                wrong.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(seen > 2, "the check finds links");
    assert!(wrong.is_empty(), "links to nothing:\n{}", wrong.join("\n"));
}

/// Returns the Markdown files of the repository.
fn documents() -> Vec<PathBuf> {
    let root = source::repository();
    let mut found: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    for directory in ["src", "examples", "benches"] {
        found.extend(source::files(&root.join(directory), "md"));
    }
    found.push(root.join("fuzz/README.md"));
    found
}

/// Returns the targets of `[text](target)` outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        // Text between single backticks is code, too.
        let prose: String = line.split('`').step_by(2).collect();
        for (at, _) in prose.match_indices("](") {
            let target = prose[at + 2..].split([')', ' ']).next().unwrap_or_default();
            found.push(target.to_owned());
        }
    }
    found
}

fn leads_somewhere(file: &Path, target: &str) -> bool {
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let to = if path.is_empty() { file.to_owned() } else { file.parent().unwrap().join(path) };
    if heading.is_empty() {
        return !target.is_empty() && to.exists();
    }
    fs::read_to_string(to).is_ok_and(|text| {
        text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading)
    })
}

/// Returns the anchor of a heading on GitHub.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn link_check_finds_targets_and_anchors() {
    let text = "[a](b.md#c) `[no](code)` and [d](../e)\n```\n[no](x)\n```\n[`f`](g \"title\")";
    assert_eq!(links(text), ["b.md#c", "../e", "g"]);
    assert_eq!(anchor("## Where a request may wait, `or` not?"), "where-a-request-may-wait-or-not");
    let here = source::repository().join("ARCHITECTURE.md");
    assert!(leads_somewhere(&here, "README.md") && leads_somewhere(&here, "#life-of-a-request"));
    assert!(!leads_somewhere(&here, "NONE.md") && !leads_somewhere(&here, "#no-such-heading"));
}
