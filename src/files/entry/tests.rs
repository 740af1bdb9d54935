use super::*;

#[test]
fn path_names_file_or_directory() {
    let table = [
        ("", true),
        ("a/", true),
        ("a", false),
        ("a/b.txt", false),
        (".well-known/acme", false),
        (".well-known", false),
        ("a..b", false),
    ];
    for (path, is_directory) in table {
        let want = FilePath { below_root: path.to_owned(), is_directory };
        assert_eq!(FilePath::parse(path, &LookupConfig::default()), Some(want), "{path}");
    }
}

#[test]
fn encoded_file_belongs_to_same_version_within_a_minute() {
    let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    assert!(!is_outdated(at(100), at(160)));
    assert!(is_outdated(at(100), at(161)));
    assert!(!is_outdated(at(200), at(100)));
    assert!(!is_outdated(None, at(100)) && !is_outdated(at(100), None));
}

#[test]
fn hidden_names_and_empty_segments_name_nothing() {
    for path in [
        ".git",
        ".git/",
        ".git/config",
        "a/.env",
        "a/.b/c",
        "/",
        "/a",
        "a//",
        "a//b",
        "...",
        "a/.well-known",
        "a/.well-known/x",
        ".well-known/.x",
        ".well-known-not",
    ] {
        assert_eq!(FilePath::parse(path, &LookupConfig::default()), None, "{path}");
    }
}
