//! Looks for the programs that end-to-end tests talk to, so that tests without theirs count as
//! ignored; with `CI=true` all are taken to be there, and a missing one fails. It is not part of
//! the published crate.

use std::{env, fs, os::unix::fs::MetadataExt, path::Path};

fn main() {
    for name in ["CI", "PATH", "VESTIBULE_PYTHON"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let ci = env::var("CI").is_ok_and(|v| v == "true");
    let path = env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| {
        let mut places = env::split_paths(&path);
        places.any(|p| p.join(program).is_file()) || Path::new("/usr/sbin").join(program).is_file()
    };
    for peer in ["curl", "nginx", "chromium"] {
        if ci || found(peer) {
            println!("cargo::rustc-cfg=peer_{peer}");
        }
    }
    // php-fpm has its version in its name.
    let is_fpm = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("php-fpm");
    let has_fpm = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut d| d.any(|e| e.is_ok_and(is_fpm)));
    if ci || env::split_paths(&path).any(|p| has_fpm(&p)) || has_fpm(Path::new("/usr/sbin")) {
        println!("cargo::rustc-cfg=peer_php");
    }
    // Mounting takes root, or a program that has its rights.
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if ci || is_root {
        println!("cargo::rustc-cfg=peer_root");
    }
    if ci || (Path::new("/dev/fuse").exists() && (is_root || found("fusermount3"))) {
        println!("cargo::rustc-cfg=peer_fuse");
    }
    // A Python with Django and gunicorn has no name of its own: it must be named.
    if ci || env::var_os("VESTIBULE_PYTHON").is_some_and(|p| Path::new(&p).is_file()) {
        println!("cargo::rustc-cfg=peer_django");
    }
}
