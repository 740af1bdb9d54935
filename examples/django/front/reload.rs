//! `--reload`: new workers when a file of the project has changed.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;
use vestibule::worker::Processes;

use crate::project::Project;

/// How often files are looked at. inotify would need a watch for each directory, and sees no changes of
/// shared folders.
const INTERVAL: Duration = Duration::from_millis(300);

/// Directories that are not the project's own.
const LEFT_OUT: [&str; 5] = ["__pycache__", "node_modules", "var", "venv", "site-packages"];

/// What counts as a part of the program.
const SUFFIXES: [&str; 8] = ["py", "html", "txt", "css", "js", "json", "toml", "po"];

/// Files that are watched, at most.
const MAX_FILES: usize = 20_000;

type Files = HashMap<PathBuf, SystemTime>;

/// Watches the project until the program ends. `changed` counts reloads that have succeeded.
pub fn spawn(project: Project, workers: Processes, changed: watch::Sender<u64>) {
    #[allow(clippy::disallowed_methods, reason = "the task ends with the process")]
    tokio::spawn(async move {
        let mut known = look(&project).await;
        while !changed.is_closed() {
            tokio::time::sleep(INTERVAL).await;
            let now = look(&project).await;
            let Some(path) = difference(&known, &now).map(Path::to_owned) else { continue };
            eprintln!("{} has changed: reloading", path.display());
            known = now;
            let is_static = path.components().any(|part| part.as_os_str() == "static");
            if is_static && let Err(error) = project.collect_static() {
                eprintln!("{error}");
            }
            match workers.reload().await {
                Ok(()) => changed.send_modify(|n| *n += 1),
                // The output of the new workers is in the log, and the old ones go on.
                Err(error) => eprintln!("{error}"),
            }
        }
    });
}

async fn look(project: &Project) -> Files {
    let dir = project.dir.clone();
    let look = move || {
        let mut files = Files::new();
        walk(&dir, &mut files);
        files
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

fn walk(dir: &Path, files: &mut Files) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && !LEFT_OUT.contains(&name) {
            walk(&path, files);
        } else if path.extension().is_some_and(|s| SUFFIXES.iter().any(|known| s == *known))
            && files.len() < MAX_FILES
            && let Ok(modified) = entry.metadata().and_then(|meta| meta.modified())
        {
            files.insert(path, modified);
        }
    }
}

/// A file that is new, changed or gone.
fn difference<'a>(old: &'a Files, new: &'a Files) -> Option<&'a Path> {
    let changed = new.iter().find(|(path, time)| old.get(*path) != Some(time));
    let gone = || old.keys().find(|path| !new.contains_key(*path));
    changed.map(|(path, _)| path).or_else(gone).map(PathBuf::as_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_names_a_file_that_is_new_changed_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let files = || {
            let mut files = Files::new();
            walk(dir.path(), &mut files);
            files
        };
        fs::create_dir_all(dir.path().join("a/__pycache__")).unwrap();
        write("a/views.py", "1");
        write("a/__pycache__/views.py", "1");
        write("a/db.sqlite3", "1");
        let old = files();
        assert_eq!(old.len(), 1);
        assert_eq!(difference(&old, &old), None);
        write("a/book.html", "1");
        let new = files();
        assert_eq!(difference(&old, &new), Some(dir.path().join("a/book.html").as_path()));
        assert_eq!(difference(&new, &old), Some(dir.path().join("a/book.html").as_path()));
    }
}
