//! `--reload`: replaces the processes of the site when a file of the project has changed.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use crate::{application::Application, project::Project};

/// Interval between two scans of the project. inotify would need a watch for each directory, and does not report
/// changes on network file systems.
const INTERVAL: Duration = Duration::from_millis(300);

/// Directories that are not scanned.
const EXCLUDED: [&str; 5] = ["__pycache__", "node_modules", "var", "venv", "site-packages"];

/// Suffixes of the files that are watched.
const SUFFIXES: [&str; 8] = ["py", "html", "txt", "css", "js", "json", "toml", "po"];

/// Maximum number of watched files.
const MAX_FILES: usize = 20_000;

/// The files of a project, with their modification times.
pub type Files = HashMap<PathBuf, SystemTime>;

/// Watches the project until the program exits. `changed` counts successful reloads.
pub fn spawn(project: Project, application: Application, changed: watch::Sender<u64>) {
    #[allow(clippy::disallowed_methods, reason = "the task ends with the process")]
    tokio::spawn(async move {
        let project = Arc::new(project);
        let mut known = scan(&project.dir).await;
        while !changed.is_closed() {
            tokio::time::sleep(INTERVAL).await;
            let now = scan(&project.dir).await;
            let Some(path) = difference(&known, &now).map(Path::to_owned) else { continue };
            eprintln!("{} has changed: reloading", path.display());
            known = now;
            let is_static = path.components().any(|part| part.as_os_str() == "static");
            if is_static && let Err(error) = collect_static(&project).await {
                eprintln!("{error}");
            }
            match application.reload().await {
                Ok(()) => changed.send_modify(|n| *n += 1),
                // The log has the output of the new workers. The old ones continue.
                Err(error) => eprintln!("{error}"),
            }
        }
    });
}

/// Copies the static files, which takes a second or more, on a thread of its own: the front has one thread.
async fn collect_static(project: &Arc<Project>) -> io::Result<()> {
    let project = Arc::clone(project);
    let copy = move || project.collect_static();
    tokio::task::spawn_blocking(copy).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Waits until a file of the project in `dir` is not as in `known`.
pub async fn wait_change(dir: &Path, known: &Files) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Some(path) = difference(known, &scan(dir).await) {
            eprintln!("{} has changed: starting", path.display());
            return;
        }
    }
}

/// Returns the files of the project in `dir`.
pub async fn scan(dir: &Path) -> Files {
    let dir = dir.to_owned();
    let scan = move || {
        let mut files = Files::new();
        walk(&dir, &mut files);
        files
    };
    tokio::task::spawn_blocking(scan).await.unwrap_or_default()
}

fn walk(dir: &Path, files: &mut Files) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && !EXCLUDED.contains(&name) {
            walk(&path, files);
        } else if path.extension().is_some_and(|s| SUFFIXES.iter().any(|known| s == *known))
            && files.len() < MAX_FILES
            && let Ok(modified) = entry.metadata().and_then(|meta| meta.modified())
        {
            files.insert(path, modified);
        }
    }
}

/// Returns a file that was added, changed or removed.
fn difference<'a>(old: &'a Files, new: &'a Files) -> Option<&'a Path> {
    let changed = new.iter().find(|(path, time)| old.get(*path) != Some(time));
    let removed = || old.keys().find(|path| !new.contains_key(*path));
    changed.map(|(path, _)| path).or_else(removed).map(PathBuf::as_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_ends_when_a_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("views.py"), "import").unwrap();
        let known = scan(dir.path()).await;
        let mut wait = std::pin::pin!(wait_change(dir.path(), &known));
        assert!(tokio::time::timeout(2 * INTERVAL, &mut wait).await.is_err(), "it is unchanged");
        fs::write(dir.path().join("urls.py"), "").unwrap();
        wait.await;
    }

    #[test]
    fn difference_is_a_file_that_was_added_changed_or_removed() {
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
