//! The site of the example, embedded, so that the program runs in any directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const FILES: [(&str, &[u8]); 6] = [
    ("index.html", include_bytes!("site/index.html")),
    ("about.html", include_bytes!("site/about.html")),
    ("style.css", include_bytes!("site/style.css")),
    ("app.js", include_bytes!("site/app.js")),
    ("favicon.svg", include_bytes!("site/favicon.svg")),
    ("house.png", include_bytes!("site/house.png")),
];

/// The size of a file to download, 8 MiB.
const BROCHURE: usize = 8 << 20;

/// The folder that is served.
pub enum Site {
    Given(PathBuf),
    /// A temporary folder, which is removed on drop.
    Unpacked(PathBuf),
}

impl Site {
    /// Writes the embedded site to a temporary folder.
    pub fn unpack() -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("vestibule-site-{}", std::process::id()));
        fs::create_dir(&dir)?;
        let site = Self::Unpacked(dir);
        for (name, content) in FILES {
            fs::write(site.path().join(name), content)?;
        }
        let line = b"A line of the brochure, which is long, as brochures are.\n";
        let brochure: Vec<u8> = line.iter().copied().cycle().take(BROCHURE).collect();
        fs::write(site.path().join("brochure.txt"), brochure)?;
        Ok(site)
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Given(dir) | Self::Unpacked(dir) => dir,
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Self::Unpacked(dir) = self {
            let _ = fs::remove_dir_all(dir);
        }
    }
}
