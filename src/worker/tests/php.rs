//! Tests of PHP as processes of a pool.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use super::{
    super::*,
    processes::{ROLE, kill_parent, spawn_role},
    *,
};

/// Children of each program.
const CHILDREN: usize = 2;

/// Runs a test that kills a program with this PHP.
fn kill_parent_of_php(test: &str, php_program: Option<&Path>) {
    if env::var_os(ROLE).is_some() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("index.php"), "<?php").unwrap();
        let builder = php(dir.path()).children(CHILDREN);
        let builder = match php_program {
            Some(path) => builder.program(path),
            None => builder,
        };
        let builder = match rustix::process::geteuid().is_root() {
            true => builder.user(65534, 65534),
            false => builder,
        };
        let _php = builder.start().unwrap();
        println!("started");
        std::thread::park_timeout(LONG);
        return;
    }
    let (mut program, _files) = spawn_role(test);
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("started")), "{test}");
    // Its main process, the children of that, and the guardian of their group.
    let began = Instant::now();
    let pids = loop {
        let pids = descendants(program.id());
        if pids.len() == 1 + CHILDREN + 1 {
            break pids;
        }
        assert!(began.elapsed() < LONG, "{pids:?}");
        std::thread::yield_now();
    };
    kill_parent(program, pids);
}

/// The processes that descend from another one (proc(5)).
fn descendants(of: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let processes: Vec<(u32, u32)> =
        pids.filter_map(|pid: u32| Some((pid, parent(pid)?))).collect();
    let mut found = vec![of];
    let mut at = 0;
    while at < found.len() {
        let children = processes.iter().filter(|(_, parent)| *parent == found[at]);
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        found.extend(children);
        at += 1;
    }
    found.split_off(1)
}

#[test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
fn php_fpm_and_its_children_end_with_a_killed_parent() {
    kill_parent_of_php("php::php_fpm_and_its_children_end_with_a_killed_parent", None);
}

#[test]
#[cfg_attr(not(peer_php_cgi), ignore = "apt-get install php-cgi")]
fn php_cgi_and_its_children_end_with_a_killed_parent() {
    let test = "php::php_cgi_and_its_children_end_with_a_killed_parent";
    kill_parent_of_php(test, Some(Path::new("/usr/bin/php-cgi")));
}
