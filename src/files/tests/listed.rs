//! Listings of folders with names that nobody would choose.

use std::os::unix::ffi::OsStrExt;

use super::*;

/// Names that a listing must not be broken by.
const HOSTILE: [&[u8]; 24] = [
    b"\xff\xfe.txt",
    b"caf\xe9",
    b"new\nline",
    b"\r\nset-cookie: a=b",
    b"bell\x07",
    b"\x7f",
    b"c1 \xc2\x9b31m",
    b"back\\slash",
    b"..\\up",
    b"%2e%2e",
    b"%2e%2e%2fsecret.txt",
    b"%00",
    b"%",
    b"a%2fb",
    b"?query",
    b"#fragment",
    b"javascript:alert(1)",
    b"<script>alert(1)<",
    b"\" onmouseover=\"alert(1)",
    b"'single'",
    b"&lt;b&gt;",
    b" space ",
    b"trailing.",
    "\u{202e}txt.exe".as_bytes(),
];

/// The links of a page, and the names in the same as JSON.
async fn listed(dir: &Dir, target: &str) -> (Vec<String>, Vec<String>) {
    let page = get(dir, target).await;
    assert_eq!(page.status(), StatusCode::OK, "{target}");
    let page = String::from_utf8(content(page).await.to_vec()).unwrap();
    assert!(!page.contains("<script") && !page.contains("\" on"), "{page}");
    assert!(page.chars().all(|c| c == '\n' || !c.is_control()), "{page}");
    let links = page.split("href=\"./").skip(1).map(|rest| rest.split('"').next().unwrap().into());
    let json = get_with(dir, target, &[(header::ACCEPT, "application/json")]).await;
    let json = String::from_utf8(content(json).await.to_vec()).unwrap();
    let names = json.split("{\"name\":\"").skip(1).map(|rest| {
        let name = rest.split("\",\"type\":\"").next().unwrap();
        name.replace("\\\"", "\"").replace("\\\\", "\\")
    });
    (links.collect(), names.collect())
}

#[tokio::test]
async fn whatever_is_listed_can_be_asked_for() {
    let site = Site::new();
    let folder = site.root().join("list");
    fs::create_dir(&folder).unwrap();
    for name in HOSTILE {
        let name = std::ffi::OsStr::from_bytes(name);
        fs::write(folder.join(name), name.as_bytes()).unwrap();
    }
    for dir in [site.dir().listing(), site.dir().listing().hidden()] {
        let (links, names) = listed(&dir, "/list/").await;
        assert_eq!(links.len(), names.len());
        assert!(names.len() > 10, "{names:?}");
        for (link, name) in links.iter().zip(&names) {
            let response = get(&dir, &format!("/list/{link}")).await;
            assert_eq!(response.status(), StatusCode::OK, "{link}");
            assert_eq!(content(response).await, *name, "{link}");
        }
    }
}
