//! The Python interpreter of a project, and its virtual environment.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Is in a virtual environment that is being made, and stays if that was interrupted.
const INCOMPLETE: &str = ".incomplete";

/// An interpreter, and why it was taken.
#[derive(Debug, Clone)]
pub struct Python {
    pub path: PathBuf,
    pub found_by: String,
}

impl Python {
    /// The interpreter of `VIRTUAL_ENV`; else that of `.venv` in the project; else of a `.venv` that is made here
    /// from `requirements.txt`; and without one that of the system.
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
            make(&venv, &requirements)?;
            return Self::at(venv.join("bin/python"), format!("{}, made now", venv.display()));
        }
        Ok(Self { path: "python3".into(), found_by: "PATH".to_owned() })
    }

    fn at(path: PathBuf, found_by: String) -> io::Result<Self> {
        if path.exists() {
            return Ok(Self { path, found_by });
        }
        let why = format!(
            "there is no {}: make the virtual environment anew, with `python3 -m venv`",
            path.display()
        );
        Err(io::Error::new(io::ErrorKind::NotFound, why))
    }

    /// Runs it with these arguments in a directory.
    pub fn output(&self, dir: &Path, args: &[&str], envs: &[(&str, &str)]) -> io::Result<Output> {
        let mut command = Command::new(&self.path);
        command.args(args).current_dir(dir).envs(envs.iter().copied()).stdin(Stdio::null());
        command.output().map_err(|error| named(&self.path, &error))
    }
}

/// Makes a virtual environment with what is required.
fn make(venv: &Path, requirements: &Path) -> io::Result<()> {
    eprintln!(
        "The first start: making the virtual environment {} from {} ...",
        venv.display(),
        requirements.display()
    );
    if venv.exists() {
        fs::remove_dir_all(venv)?; // of a start that was interrupted
    }
    fs::create_dir_all(venv)?;
    fs::write(venv.join(INCOMPLETE), "")?;
    run(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    run(Command::new(venv.join("bin/python")).args(pip).arg(requirements))?;
    fs::remove_file(venv.join(INCOMPLETE))
}

fn run(command: &mut Command) -> io::Result<()> {
    let status = command.status().map_err(|error| named(command.get_program().as_ref(), &error))?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?} failed with {status}")))
}

fn named(program: &Path, error: &io::Error) -> io::Error {
    let why =
        format!("cannot run {}: {error} (install Python 3, and python3-venv)", program.display());
    io::Error::new(error.kind(), why)
}
