//! `Project`: the directory, the interpreter and the settings of a Django project.

use std::{
    collections::HashMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use crate::{args::Args, python::Python};

/// The Python program that imports the application and prints the settings.
const PROBE: &str = include_str!("probe.py");

/// The directory of the example's own project.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/django");

pub struct Project {
    pub dir: PathBuf,
    pub app: String,
    pub python: Python,
    /// Whether it is the example's own project.
    pub is_example: bool,
    /// Environment variables of the workers.
    pub envs: Vec<(&'static str, &'static str)>,
    settings: HashMap<String, String>,
}

impl Project {
    /// Finds the directory and the interpreter. The application is not imported.
    pub fn open(args: &Args) -> io::Result<Self> {
        let is_example = args.project.is_none();
        let (dir, app) = match &args.project {
            Some((dir, app)) => (dir.clone(), app.clone()),
            None if args.asgi => (EXAMPLE.into(), "mysite.asgi:application".to_owned()),
            None => (EXAMPLE.into(), "mysite.wsgi:application".to_owned()),
        };
        let dir = fs::canonicalize(&dir).map_err(|error| {
            let why = format!("cannot open the project at {}: {error}", dir.display());
            io::Error::new(error.kind(), why)
        })?;
        let python = Python::find(&dir)?;
        let mut envs = Vec::new();
        if args.reload && is_example && env::var_os("DJANGO_DEBUG").is_none() {
            envs.push(("DJANGO_DEBUG", "1")); // shows tracebacks in the browser
        }
        Ok(Self { dir, app, python, is_example, envs, settings: HashMap::new() })
    }

    /// Reads the settings, and sets up the database and the static files of the example's own project.
    pub fn prepare(&mut self) -> io::Result<()> {
        if self.is_example {
            self.manage(&["migrate", "--noinput", "--verbosity", "0"])?;
            self.collect_static()?;
        }
        self.probe()?;
        if let Some((_, uploads)) = self.media().filter(|_| self.is_example) {
            fs::create_dir_all(uploads)?;
        }
        Ok(())
    }

    /// Imports the application in a separate process, and reads the settings.
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

    /// Returns a setting, unless it is missing or empty.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the URL prefix and the folder of static files, if both are set.
    pub fn static_files(&self) -> Option<(&str, &Path)> {
        self.folder("static_url", "static_root")
    }

    /// Returns the URL prefix and the folder of uploads, if both are set.
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
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        Err(io::Error::other(format!("`{}` failed:\n{stderr}", args.join(" "))))
    }
}
