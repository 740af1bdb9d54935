//! `Python`: the interpreter of a project, and its virtual environment.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A file in a virtual environment that is being created. It remains if the creation is interrupted.
const INCOMPLETE: &str = ".incomplete";

/// A Python interpreter.
#[derive(Debug, Clone)]
pub struct Python {
    pub path: PathBuf,
    /// The variable or the directory from which it was chosen.
    pub source: String,
}

impl Python {
    /// Chooses the interpreter: that of `VIRTUAL_ENV`, of `.venv` in the project, of a new `.venv` if the project has a
    /// `requirements.txt`, or of the system.
    pub fn find(project: &Path) -> io::Result<Self> {
        if let Some(venv) = env::var_os("VIRTUAL_ENV").filter(|venv| !venv.is_empty()) {
            let path = Path::new(&venv).join("bin/python");
            return Self::at(path, "VIRTUAL_ENV".to_owned());
        }
        let venv = project.join(".venv");
        if venv.is_dir() && !venv.join(INCOMPLETE).exists() {
            return Self::at(venv.join("bin/python"), venv.display().to_string());
        }
        let requirements = project.join("requirements.txt");
        if requirements.is_file() {
            create_venv(&venv, &requirements)?;
            return Self::at(venv.join("bin/python"), format!("{}, just created", venv.display()));
        }
        Ok(Self { path: "python3".into(), source: "PATH".to_owned() })
    }

    fn at(path: PathBuf, source: String) -> io::Result<Self> {
        if path.exists() {
            return Ok(Self { path, source });
        }
        let why = format!(
            "{} does not exist: create the virtual environment again with `python3 -m venv`",
            path.display()
        );
        Err(io::Error::new(io::ErrorKind::NotFound, why))
    }

    /// Returns the directory of the virtual environment's programs; `None` for the interpreter of the system.
    pub fn programs(&self) -> Option<PathBuf> {
        let bin = self.path.parent().filter(|bin| !bin.as_os_str().is_empty())?;
        std::path::absolute(bin).ok()
    }

    /// Runs the interpreter with these arguments in a directory, and returns its output.
    pub fn output(&self, dir: &Path, args: &[&str], envs: &[(&str, &str)]) -> io::Result<Output> {
        let mut command = Command::new(&self.path);
        command.args(args).current_dir(dir).envs(envs.iter().copied()).stdin(Stdio::null());
        command.output().map_err(|error| cannot_run(&self.path, &error))
    }
}

/// Creates a virtual environment with the packages of a requirements file.
fn create_venv(venv: &Path, requirements: &Path) -> io::Result<()> {
    eprintln!(
        "First start: creating the virtual environment {} from {} ...",
        venv.display(),
        requirements.display()
    );
    if venv.exists() {
        fs::remove_dir_all(venv)?; // left by an interrupted creation
    }
    fs::create_dir_all(venv)?;
    fs::write(venv.join(INCOMPLETE), "")?;
    run(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    run(Command::new(venv.join("bin/python")).args(pip).arg(requirements))?;
    fs::remove_file(venv.join(INCOMPLETE))
}

fn run(command: &mut Command) -> io::Result<()> {
    let status =
        command.status().map_err(|error| cannot_run(command.get_program().as_ref(), &error))?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?} failed with {status}")))
}

fn cannot_run(program: &Path, error: &io::Error) -> io::Error {
    let why =
        format!("cannot run {}: {error} (install Python 3, and python3-venv)", program.display());
    io::Error::new(error.kind(), why)
}
