//! `Program`: php-fpm with a generated configuration, or php-cgi.

use std::{
    env,
    fmt::Write,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use super::{PhpBuilder, connections::IDLE_TIMEOUT};
use crate::{
    error::BoxError,
    net::process::{Command, StopSignal},
    worker::process::SOCKET,
};

/// Folders that are searched after those of `PATH`, where php-fpm is often installed.
const SYSTEM_DIRS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// The environment variable from which php-fpm's configuration takes the path of its socket.
const SOCKET_VARIABLE: &str = "VESTIBULE_PHP_SOCKET";

/// Length of the kernel's accept queue: 1,024. It needs to hold a burst only, since no more requests run than there are
/// processes.
const BACKLOG: usize = 1024;

/// Neither php-fpm nor php-cgi is installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot find php-fpm or php-cgi in PATH, /usr/sbin and /usr/local/sbin: install one of them"
)]
pub struct NoPhp;

/// This process runs as root, and no user was set for the scripts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PHP would run as root: set the user and group of the scripts with PhpBuilder::user")]
pub struct UserRequired;

#[derive(Debug)]
pub(super) enum Program {
    Fpm(PathBuf),
    Cgi(PathBuf),
}

impl Program {
    /// Returns the program at `path`, or the one that is installed.
    pub(super) fn find(path: Option<&Path>) -> Result<Self, BoxError> {
        if let Some(path) = path {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_cgi = name.contains("cgi");
            return Ok(if is_cgi { Self::Cgi(path.into()) } else { Self::Fpm(path.into()) });
        }
        let fpm = installed("php-fpm").map(Self::Fpm);
        fpm.or_else(|| installed("php-cgi").map(Self::Cgi)).ok_or_else(|| NoPhp.into())
    }

    /// Returns the command that starts the program, and the folder of its configuration, which the caller must keep.
    pub(super) fn command(&self, options: &PhpBuilder) -> Result<(Command, TempDir), BoxError> {
        let is_root = rustix::process::geteuid().is_root();
        if is_root && options.user.is_none() {
            return Err(UserRequired.into());
        }
        let dir = tempfile::Builder::new().prefix("vestibule-php-").tempdir()?;
        let command = match self {
            Self::Fpm(path) => {
                let file = dir.path().join("php-fpm.conf");
                fs::write(&file, fpm_config(options, is_root)?)?;
                let mut command = Command::new(path)
                    .args(["--nodaemonize", "--fpm-config"])
                    .arg(file)
                    .env(SOCKET_VARIABLE, SOCKET)
                    .stop_signal(StopSignal::Quit);
                if options.user.is_some_and(|(uid, _)| uid == 0) {
                    command = command.arg("--allow-to-run-as-root");
                }
                command
            }
            Self::Cgi(path) => {
                let command = Command::new(path)
                    .args(["-b", SOCKET])
                    .env("PHP_FCGI_CHILDREN", options.children.to_string())
                    .env("PHP_FCGI_MAX_REQUESTS", options.recycle_after.to_string());
                match options.user.filter(|_| is_root) {
                    Some((uid, gid)) => command.uid(uid).gid(gid),
                    None => command,
                }
            }
        };
        let ini = options.ini.iter().map(|(name, value)| format!("{name}={value}"));
        let command = ini.fold(command, |command, line| command.arg("-d").arg(line));
        let env = options.env.iter();
        Ok((env.fold(command, |command, (name, value)| command.env(name, value)), dir))
    }
}

/// Returns the seconds after which php-fpm kills the process of a request: it counts whole ones, and those in which the
/// connection was idle before.
fn terminate_timeout(request_timeout: Duration) -> u64 {
    request_timeout
        .saturating_add(IDLE_TIMEOUT)
        .saturating_add(Duration::from_millis(999))
        .as_secs()
}

/// Returns the configuration of php-fpm: one pool, with the socket of [`SOCKET_VARIABLE`].
fn fpm_config(options: &PhpBuilder, is_root: bool) -> Result<String, BoxError> {
    let PhpBuilder { children, spare, request_timeout, recycle_after, captures_output, .. } =
        options;
    let mut conf = format!(
        "[global]\ndaemonize = no\nerror_log = /proc/self/fd/2\nlog_level = warning\n\
         [vestibule]\nlisten = ${{{SOCKET_VARIABLE}}}\nlisten.backlog = {BACKLOG}\nlisten.mode = 0600\n\
         pm.max_children = {children}\npm.max_requests = {recycle_after}\n\
         request_terminate_timeout = {}s\nsecurity.limit_extensions = .php\n\
         clear_env = no\ncatch_workers_output = {}\ndecorate_workers_output = no\n",
        terminate_timeout(*request_timeout),
        if *captures_output { "yes" } else { "no" }
    );
    if let (Some((uid, gid)), true) = (options.user, is_root) {
        writeln!(conf, "user = {uid}\ngroup = {gid}")?;
    }
    match spare.map(|spare| spare.min(*children)) {
        None => conf.push_str("pm = static\n"),
        Some(spare) => write!(
            conf,
            "pm = dynamic\npm.start_servers = {spare}\npm.min_spare_servers = {spare}\n\
             pm.max_spare_servers = {spare}\n"
        )?,
    }
    Ok(conf)
}

/// Returns the path of an installed program: of this name, or else with the highest version as suffix.
fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from));
    let files = dirs.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let mut found: Vec<(Vec<u32>, PathBuf)> = files
        .filter_map(|file| {
            let version = version_behind(file.file_name().to_str()?, name)?;
            is_executable(&file.path()).then(|| (version, file.path()))
        })
        .collect();
    // A name without a version is the administrator's choice.
    found.sort_by_key(|(version, ..)| (version.is_empty(), version.clone()));
    found.pop().map(|(_, path)| path)
}

/// Returns the version in a file name: empty for `php-fpm`, 8 and 2 for `php-fpm8.2`, `None` for another program.
fn version_behind(file: &str, name: &str) -> Option<Vec<u32>> {
    let rest = file.strip_prefix(name)?.trim_start_matches('-');
    if rest.is_empty() {
        return Some(Vec::new());
    }
    rest.split('.').map(|part| part.parse().ok()).collect()
}

fn is_executable(path: &Path) -> bool {
    let meta: io::Result<fs::Metadata> = fs::metadata(path);
    meta.is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn version_is_read_from_name_of_program() {
        let version = |file| version_behind(file, "php-fpm");
        assert_eq!(version("php-fpm"), Some(vec![]));
        assert_eq!(version("php-fpm8.2"), Some(vec![8, 2]));
        assert!(version("php-fpm8.10") > version("php-fpm8.9"));
        assert_eq!((version("php-fpm.conf"), version("php-cgi8.2")), (None, None));
    }

    #[test]
    fn program_at_path_is_recognized_by_its_name() {
        let found = |path: &str| Program::find(Some(Path::new(path))).unwrap();
        assert!(matches!(found("/opt/php/bin/php-cgi8.3"), Program::Cgi(_)));
        assert!(matches!(found("/opt/cgi-bin/php-fpm"), Program::Fpm(_)));
    }

    #[test]
    fn configuration_names_user_only_for_root_and_bounds_children() {
        let options = crate::worker::php("/srv").children(3).spare(9).user(33, 34);
        let conf = fpm_config(&options, false).unwrap();
        assert!(!conf.contains("user ="), "{conf}");
        let conf = fpm_config(&options, true).unwrap();
        assert!(conf.contains("user = 33\ngroup = 34\n"), "{conf}");
        assert!(conf.contains("pm = dynamic\npm.start_servers = 3\n"), "{conf}");
        assert!(conf.contains("listen = ${VESTIBULE_PHP_SOCKET}\n"), "{conf}");
    }

    #[test]
    fn configuration_allows_for_idle_time_and_captures_output_unless_disabled() {
        let options = crate::worker::php("/srv").request_timeout(Duration::from_secs(30));
        let conf = fpm_config(&options, false).unwrap();
        assert!(conf.contains("request_terminate_timeout = 31s\n"), "{conf}");
        assert_eq!(terminate_timeout(Duration::from_millis(1500)), 3);
        assert!(conf.contains("catch_workers_output = yes\n"), "{conf}");
        let conf = fpm_config(&options.capture_output(false), false).unwrap();
        assert!(conf.contains("catch_workers_output = no\n"), "{conf}");
    }
}
