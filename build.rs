//! Looks for the peer programs of end-to-end tests, so that tests whose program is missing count as ignored. With
//! `CI=true` all programs are required, and a test without its program fails. With `VESTIBULE_LOOM=1` loom runs the
//! models. It is not part of the published crate.

use std::{env, fs, os::unix::fs::MetadataExt, path::Path};

fn main() {
    for name in ["CI", "PATH", "VESTIBULE_LOOM", "VESTIBULE_PYTHON"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    // Not by RUSTFLAGS, with which all dependencies would be compiled again.
    if env::var("VESTIBULE_LOOM").is_ok_and(|v| v == "1") {
        println!("cargo::rustc-cfg=vestibule_loom");
    }
    let ci = env::var("CI").is_ok_and(|v| v == "true");
    let path = env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| {
        let mut places = env::split_paths(&path);
        places.any(|p| p.join(program).is_file()) || Path::new("/usr/sbin").join(program).is_file()
    };
    for (peer, program) in [
        ("curl", "curl"),
        ("nginx", "nginx"),
        ("haproxy", "haproxy"),
        ("chromium", "chromium"),
        ("h2load", "h2load"),
        ("openssl", "openssl"),
        ("python3", "python3"),
        ("redis", "redis-server"),
        ("ip", "ip"),
        ("dnsmasq", "dnsmasq"),
        ("etcd", "etcd"),
        ("php_cgi", "php-cgi"),
        ("node", "node"),
        ("puma", "puma"),
    ] {
        if ci || found(program) {
            println!("cargo::rustc-cfg=peer_{peer}");
        }
    }
    if ci || Path::new("/usr/lib/nginx/modules/ngx_stream_module.so").is_file() {
        println!("cargo::rustc-cfg=peer_nginx_stream");
    }
    // The name of php-fpm contains its version.
    let is_fpm = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("php-fpm");
    let has_fpm = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut d| d.any(|e| e.is_ok_and(is_fpm)));
    if ci || env::split_paths(&path).any(|p| has_fpm(&p)) || has_fpm(Path::new("/usr/sbin")) {
        println!("cargo::rustc-cfg=peer_php");
    }
    // Debian has its programs in a directory for each version.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    if ci || versions.map(|v| v.path().join("bin/postgres")).any(|program| program.is_file()) {
        println!("cargo::rustc-cfg=peer_postgres");
    }
    // Mounting needs root, or a set-user-ID program.
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if ci || is_root {
        println!("cargo::rustc-cfg=peer_root");
    }
    // Root of a container may lack CAP_SYS_ADMIN, bit 21, without which it cannot mount.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|c| u64::from_str_radix(c.trim(), 16).ok());
    if ci || capabilities.is_some_and(|c| c >> 21 & 1 == 1) {
        println!("cargo::rustc-cfg=peer_mount");
    }
    // landlock(7): Linux 5.13.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    if ci || (numbers.next(), numbers.next()) >= (Some(5), Some(13)) {
        println!("cargo::rustc-cfg=peer_landlock");
    }
    if ci || (Path::new("/dev/fuse").exists() && (is_root || found("fusermount3"))) {
        println!("cargo::rustc-cfg=peer_fuse");
    }
    // Its packages lie beside it, in a virtual environment.
    let python = env::var_os("VESTIBULE_PYTHON").map(std::path::PathBuf::from);
    let lib = python.as_deref().and_then(Path::parent).map(|bin| bin.join("../lib"));
    let has_package = |name: &str| {
        let versions = lib.as_deref().and_then(|lib| fs::read_dir(lib).ok());
        let mut packages =
            versions.into_iter().flatten().flatten().map(|v| v.path().join("site-packages"));
        packages.any(|packages| packages.join(name).is_dir())
    };
    let packages = ["websockets", "uvicorn", "starlette", "channels"];
    if ci || packages.iter().all(|name| has_package(name)) {
        println!("cargo::rustc-cfg=peer_websockets");
    }
    if ci || has_package("psycopg") {
        println!("cargo::rustc-cfg=peer_psycopg");
    }
    // A Python with Django and gunicorn cannot be found by its name: a variable names it.
    if ci || env::var_os("VESTIBULE_PYTHON").is_some_and(|p| Path::new(&p).is_file()) {
        println!("cargo::rustc-cfg=peer_django");
    }
}
