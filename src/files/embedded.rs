//! `Embedded`: files that are part of the program.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io,
    ops::ControlFlow,
};

use bytes::Bytes;

use super::backend::{Backend, BackendFile, Content, Item, Lookup};

/// A [`Backend`] of files in memory: those that `include_bytes!`, `rust-embed` or `include_dir` put into the
/// program, or that the program makes at its start.
///
/// ```
/// use vestibule::files::{self, Embedded};
///
/// let site = files::backend(Embedded::from_iter([
///     ("index.html", "<h1>hello</h1>".as_bytes()),
///     ("assets/app.js", b"alert(1)"),
/// ]));
/// # drop(site);
/// ```
///
/// With `rust-embed`: `Embedded::from_iter(Assets::iter().map(|path| (path.to_string(),
/// Assets::get(&path).unwrap().data.into_owned())))`.
#[derive(Clone, Default)]
pub struct Embedded {
    /// Sorted, so that the files of a directory are adjacent.
    files: BTreeMap<String, BackendFile>,
}

impl<P: Into<String>, B: Into<Bytes>> FromIterator<(P, B)> for Embedded {
    /// Collects files by their paths below the root. Leading slashes are removed. Of two files with one path
    /// the last one counts.
    fn from_iter<I: IntoIterator<Item = (P, B)>>(files: I) -> Self {
        let files = files.into_iter().map(|(path, content)| {
            let (path, content) = (path.into(), content.into());
            let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&content[..]);
            let tag = format!("{:x}-{hash:x}", content.len());
            let file = BackendFile { content: Content::Bytes(content), modified: None, tag };
            (path.trim_start_matches('/').to_owned(), file)
        });
        Self { files: files.collect() }
    }
}

impl Embedded {
    fn find(&self, path: &str) -> Lookup {
        if let Some(file) = self.files.get(path) {
            return Lookup::File(file.clone());
        }
        let is_directory = path == "." || self.below(path).next().is_some();
        if is_directory { Lookup::Directory } else { Lookup::Missing }
    }

    /// Returns the files below a directory, with their paths relative to it.
    fn below<'a>(
        &'a self,
        directory: &str,
    ) -> impl Iterator<Item = (&'a str, &'a BackendFile)> + use<'a> {
        let prefix = if directory == "." { String::new() } else { format!("{directory}/") };
        let from = self.files.range(prefix.clone()..);
        from.map_while(move |(path, file)| Some((path.strip_prefix(&prefix)?, file)))
    }
}

impl Backend for Embedded {
    fn lookup(&self, path: &str) -> io::Result<Lookup> {
        Ok(self.find(path))
    }

    fn try_lookup_cached(&self, path: &str) -> Option<Lookup> {
        Some(self.find(path))
    }

    fn list(&self, path: &str, each: &mut dyn FnMut(Item) -> ControlFlow<()>) -> io::Result<()> {
        let mut last = None;
        for (rest, file) in self.below(path) {
            let (name, is_directory) =
                rest.split_once('/').map_or((rest, false), |(f, _)| (f, true));
            if last.replace(name) == Some(name) {
                continue; // another file of the same directory
            }
            let size = if is_directory { 0 } else { file.content.len() };
            if each(Item { name: name.into(), is_directory, size, modified: None }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("files", &self.files.len()).finish()
    }
}
