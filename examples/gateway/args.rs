//! The command line.

use std::{io, path::PathBuf};

use crate::site::Site;

const HELP: &str = "\
gateway [--listen ADDR] [--workers N] [--threads N] [--site DIR]

  --listen ADDR   host:port or unix:/path (127.0.0.1:8080)
  --workers N     threads that run the application (4)
  --threads N     front threads with a runtime each (0: one a core); without it, one runtime
  --site DIR      the folder to serve (the one that comes with the example)";

pub struct Args {
    pub listen: String,
    pub workers: usize,
    pub threads: Option<usize>,
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

    /// The folder to serve; the embedded one is unpacked first.
    pub fn site(&self) -> io::Result<Site> {
        match &self.site {
            Some(dir) => Ok(Site::Given(dir.clone())),
            None => Site::unpack(),
        }
    }
}
