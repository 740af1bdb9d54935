use super::*;

const AT: Duration = Duration::from_secs(9);

fn key(path: &str) -> Key {
    Key::new("http", "a", path, None).unwrap()
}

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn mark_applies_to_earlier_objects_of_its_scope_only() {
    let origin = "http://a";
    for (scope, path, of) in [
        (Scope::All, "/x", &[][..]),
        (Scope::Prefix("http://a/x"), "/xy", &[]),
        (Scope::Group { group: "g", origin: "" }, "/", &["f", "g"]),
        (Scope::Group { group: "g", origin }, "/", &["g"]),
        (Scope::Key("http://a/x"), "/x", &[]),
    ] {
        let marks = Marks::default();
        let verdict = |revision| marks.verdict(&key(path), &groups(of), revision);
        assert_eq!(verdict(9), Verdict::Keep);
        marks.add(scope, Purge::Soft, 10, AT);
        assert_eq!((verdict(9), verdict(10)), (Verdict::Expire(AT), Verdict::Keep));
        marks.add(scope, Purge::Hard, 5, AT);
        assert_eq!((verdict(4), verdict(5)), (Verdict::Remove, Verdict::Expire(AT)));
        let other = Key::new("http", "ab", "/", None).unwrap();
        let contains_other = matches!(scope, Scope::All | Scope::Group { origin: "", .. });
        assert_eq!(marks.verdict(&other, &groups(of), 4) == Verdict::Remove, contains_other);
        marks.hold();
        marks.forget(9, true, &marks.sync_removals());
        assert_eq!((verdict(4), marks.newest()), (Verdict::Remove, Some(10)));
        marks.release(&marks.sync_removals());
        assert_eq!((verdict(4), marks.newest()), (Verdict::Expire(AT), Some(10)));
        marks.forget(10, true, &marks.sync_removals());
        assert_eq!((verdict(4), marks.newest()), (Verdict::Keep, None));
        let set = marks.read();
        assert_eq!((set.prefixes.len(), set.groups.len(), set.groups_len), (0, 0, 0));
    }
}

#[test]
fn marks_are_bounded_and_one_more_applies_to_all_objects() {
    let unmarked = key("/unmarked");
    let marks = Marks::default();
    for i in 0..MAX_MARKED_GROUPS {
        for _ in 0..2 {
            let group = &format!("g{i}");
            marks.add(Scope::Group { group, origin: "" }, Purge::Hard, 2, AT);
        }
    }
    for i in 0..MAX_MARKED_PREFIXES {
        marks.add(Scope::Prefix(&format!("http://b/{i}")), Purge::Hard, 2, AT);
    }
    assert_eq!(marks.verdict(&unmarked, &[], 1), Verdict::Keep);
    marks.add(Scope::Prefix("http://b"), Purge::Soft, 2, AT);
    assert_eq!(marks.verdict(&unmarked, &[], 1), Verdict::Expire(AT));
    marks.add(Scope::Group { group: "g", origin: "" }, Purge::Hard, 2, AT);
    assert_eq!(marks.verdict(&unmarked, &[], 1), Verdict::Remove);
    let set = marks.read();
    assert_eq!((set.groups_len, set.prefixes.len()), (MAX_MARKED_GROUPS, MAX_MARKED_PREFIXES));
}
