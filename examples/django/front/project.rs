//! The project: where it is, and what its settings say.

use std::{
    collections::HashMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use crate::{args::Args, python::Python};

/// Asks the project for its settings.
const PROBE: &str = include_str!("probe.py");

/// The project that comes with the example.
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/django");

pub struct Project {
    pub dir: PathBuf,
    pub app: String,
    pub python: Python,
    pub is_shipped: bool,
    /// Variables of the workers' environment.
    pub envs: Vec<(&'static str, &'static str)>,
    settings: HashMap<String, String>,
}

impl Project {
    /// Finds the interpreter. The application is not yet imported.
    pub fn open(args: &Args) -> io::Result<Self> {
        let is_shipped = args.project.is_none();
        let (dir, app) = match &args.project {
            Some((dir, app)) => (dir.clone(), app.clone()),
            None if args.asgi => (SHIPPED.into(), "mysite.asgi:application".to_owned()),
            None => (SHIPPED.into(), "mysite.wsgi:application".to_owned()),
        };
        let dir = fs::canonicalize(&dir).map_err(|error| {
            let why = format!("there is no project at {}: {error}", dir.display());
            io::Error::new(error.kind(), why)
        })?;
        let python = Python::find(&dir)?;
        let mut envs = Vec::new();
        if args.reload && is_shipped && env::var_os("DJANGO_DEBUG").is_none() {
            envs.push(("DJANGO_DEBUG", "1")); // pages that explain what is wrong
        }
        Ok(Self { dir, app, python, is_shipped, envs, settings: HashMap::new() })
    }

    /// Prepares the project that comes with the example, and reads the settings of any.
    pub fn prepare(&mut self) -> io::Result<()> {
        if self.is_shipped {
            self.manage(&["migrate", "--noinput", "--verbosity", "0"])?;
            self.collect_static()?;
        }
        self.probe()?;
        if let Some((_, uploads)) = self.media().filter(|_| self.is_shipped) {
            fs::create_dir_all(uploads)?;
        }
        Ok(())
    }

    /// Imports the application in a process of its own and asks for the settings.
    pub fn probe(&mut self) -> io::Result<()> {
        let out = self.python.output(&self.dir, &["-c", PROBE, &self.app], &self.envs)?;
        if !out.status.success() {
            let trace = String::from_utf8_lossy(&out.stderr).into_owned();
            let why = format!("cannot import {} in {}:\n{trace}", self.app, self.dir.display());
            return Err(io::Error::other(why));
        }
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let lines =
            text.lines().filter_map(|line| line.strip_prefix("vestibule ")?.split_once('='));
        self.settings = lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Ok(())
    }

    /// A setting that is neither missing nor empty.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The path below which static files are, and their folder, if the front is to serve them.
    pub fn static_files(&self) -> Option<(&str, &Path)> {
        self.folder("static_url", "static_root")
    }

    /// The same of what users have uploaded.
    pub fn media(&self) -> Option<(&str, &Path)> {
        self.folder("media_url", "media_root")
    }

    fn folder(&self, url: &str, root: &str) -> Option<(&str, &Path)> {
        let url = self.setting(url).filter(|url| url.starts_with('/') && url.len() > 1)?;
        Some((url, Path::new(self.setting(root)?)))
    }

    /// Copies the static files of all applications to `STATIC_ROOT`.
    pub fn collect_static(&self) -> io::Result<()> {
        self.manage(&["collectstatic", "--noinput", "--verbosity", "0"])
    }

    pub fn has_manage(&self) -> bool {
        self.dir.join("manage.py").is_file()
    }

    /// Runs a command of `manage.py`.
    pub fn manage(&self, args: &[&str]) -> io::Result<()> {
        let args = [&["manage.py"], args].concat();
        let out = self.python.output(&self.dir, &args, &self.envs)?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        Err(io::Error::other(format!("`{}` failed:\n{said}", args.join(" "))))
    }
}
