//! The command line.

use std::{net::IpAddr, path::PathBuf};

use vestibule::peer::Network;

const HELP: &str = "\
django [OPTIONS] [PROJECT_DIR MODULE:APP]

  PROJECT_DIR MODULE:APP   the directory of your project, and its application, such as
                           mysite.wsgi:application (the guest book that comes with the example)

  --listen ADDR     host:port or unix:/path (127.0.0.1:8000)
  --workers N       processes that run the application (one for each core)
  --threads N       front threads, beside the workers (1; 0: one for each core)
  --refork-after N  forks the workers again from one that has answered N requests, which saves memory
  --daemon COMMAND  runs a command of the shell beside the workers, restarts it with them, and stops it with the
                    site, such as 'python manage.py qcluster'; may be repeated
  --asgi            the application uses ASGI, such as mysite.asgi:application
  --trust NETWORK   trusts X-Forwarded-For and -Proto of proxies there, such as 10.0.0.0/8; may be repeated
  --public-media    serves MEDIA_ROOT at MEDIA_URL without access control
  --log             logs a line for each request
  --reload          for development: restarts workers and daemons, and refreshes the browser when a file changes
  --check           checks the set-up, prints what to repair, and exits";

pub struct Args {
    pub listen: String,
    pub workers: usize,
    pub threads: Option<usize>,
    pub refork_after: Option<u64>,
    pub daemons: Vec<String>,
    pub asgi: bool,
    pub trust: Vec<Network>,
    pub public_media: bool,
    pub log: bool,
    pub reload: bool,
    pub check: bool,
    /// Directory and application; `None` for those of the example.
    pub project: Option<(PathBuf, String)>,
}

impl Args {
    pub fn parse() -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let mut args = Self {
            listen: "127.0.0.1:8000".into(),
            workers: std::thread::available_parallelism().map_or(1, Into::into),
            threads: None,
            refork_after: None,
            daemons: Vec::new(),
            asgi: false,
            trust: Vec::new(),
            public_media: false,
            log: false,
            reload: false,
            check: false,
            project: None,
        };
        let mut names: Vec<std::ffi::OsString> = Vec::new();
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("listen") => args.listen = parser.value()?.string()?,
                Long("workers") => args.workers = parser.value()?.parse()?,
                Long("threads") => args.threads = Some(parser.value()?.parse()?),
                Long("refork-after") => args.refork_after = Some(parser.value()?.parse()?),
                Long("daemon") => args.daemons.push(parser.value()?.string()?),
                Long("asgi") => args.asgi = true,
                Long("trust") => args.trust.push(parser.value()?.parse_with(network)?),
                Long("public-media") => args.public_media = true,
                Long("log") => args.log = true,
                Long("reload") => args.reload = true,
                Long("check") => args.check = true,
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    std::process::exit(0);
                }
                Value(name) => names.push(name),
                _ => return Err(arg.unexpected()),
            }
        }
        args.project = match &names[..] {
            [] => None,
            [dir, app] => Some((dir.into(), app.clone().string()?)),
            _ => return Err("give a directory and MODULE:APP, or neither".into()),
        };
        Ok(args)
    }

    /// Returns the host in the URL of the site; `None` if the address does not determine it.
    pub fn host(&self) -> Option<String> {
        if self.listen.starts_with("unix:") {
            return None;
        }
        let host = self.listen.rsplit_once(':')?.0.trim_matches(['[', ']']);
        match host.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => None,
            Ok(IpAddr::V6(ip)) => Some(format!("[{ip}]")),
            _ => Some(host.to_owned()),
        }
    }
}

/// Parses a network, or the address of one host.
fn network(text: &str) -> Result<Network, vestibule::peer::InvalidNetwork> {
    let bits = if text.contains('/') {
        ""
    } else if text.contains(':') {
        "/128"
    } else {
        "/32"
    };
    format!("{text}{bits}").parse()
}
