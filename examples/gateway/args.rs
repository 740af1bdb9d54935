//! The command line.

use std::{io, path::PathBuf};

use vestibule::serve::Serve;

use crate::site::Site;

const HELP: &str = "\
gateway [--listen ADDR] [--workers N] [--threads N] [--site DIR]

  --listen ADDR   host:port or unix:/path (127.0.0.1:8080)
  --workers N     threads that run the application (4)
  --threads N     N threads with a runtime each (0: one per core); by default one runtime
  --site DIR      the folder to serve (by default the site of the example)";

pub struct Args {
    pub listen: String,
    pub workers: usize,
    threads: Option<usize>,
    site: Option<PathBuf>,
}

impl Args {
    pub fn parse() -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let mut args =
            Self { listen: "127.0.0.1:8080".into(), workers: 4, threads: None, site: None };
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("listen") => args.listen = parser.value()?.string()?,
                Long("workers") => args.workers = parser.value()?.parse()?,
                Long("threads") => args.threads = Some(parser.value()?.parse()?),
                Long("site") => args.site = Some(parser.value()?.into()),
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    std::process::exit(0);
                }
                _ => return Err(arg.unexpected()),
            }
        }
        Ok(args)
    }

    /// Applies `--threads` to `server`.
    pub fn with_threads<S>(&self, server: Serve<S>) -> Serve<S> {
        match self.threads {
            None => server,
            Some(0) => server.thread_per_core(),
            Some(n) => server.runtime_threads(n),
        }
    }

    /// Returns the folder to serve. Unpacks the embedded site if no folder is given.
    pub fn site(&self) -> io::Result<Site> {
        match &self.site {
            Some(dir) => Ok(Site::Given(dir.clone())),
            None => Site::unpack(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn threads_option_zero_serves_on_each_core() {
        let args = Args { listen: String::new(), workers: 1, threads: Some(0), site: None };
        let server = vestibule::serve("127.0.0.1:0", vestibule::Router::new());
        assert!(args.with_threads(server).bind().is_ok());
    }
}
