//! What is in a folder, for people (HTML) and for programs (JSON).

use std::{
    fmt::Write,
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, FileType, statat};

use crate::semantics::date::HttpDate;

/// Names that are listed: 10,000. A folder with more says that there are more.
const MOST: usize = 10_000;

#[derive(Debug)]
pub(super) struct Listing {
    pub(super) html: Bytes,
    pub(super) json: Bytes,
}

struct Item {
    name: Vec<u8>,
    folder: bool,
    size: u64,
    modified: SystemTime,
}

impl Listing {
    /// Reads the folder. Blocks on the disk.
    pub(super) fn read(folder: &File, hidden: bool) -> io::Result<Self> {
        let mut items = Vec::new();
        let mut more = false;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || (name.starts_with(b".") && !hidden) {
                continue;
            }
            if items.len() == MOST {
                more = true;
                break;
            }
            // What is gone meanwhile, and what is neither file nor folder, is not there. Links are
            // not looked through: whether they lead anywhere shows when they are asked for.
            let name = std::ffi::OsStr::from_bytes(name);
            let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if !matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink) {
                continue;
            }
            let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
            items.push(Item {
                name: name.as_bytes().to_vec(),
                folder: kind == FileType::Directory,
                size: u64::try_from(stat.st_size).unwrap_or(0),
                modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(1 << 40)),
            });
        }
        // Folders first, then by name.
        items.sort_by(|a, b| (!a.folder, &a.name).cmp(&(!b.folder, &b.name)));
        Ok(Self { html: html(&items, more).into(), json: json(&items, more).into() })
    }
}

fn html(items: &[Item], more: bool) -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Files</title>\n<ul>\n\
         <li><a href=\"../\">../</a>\n",
    );
    for item in items {
        let slash = if item.folder { "/" } else { "" };
        // Relative, and from here on: no name is taken for a scheme or for another host.
        page.push_str("<li><a href=\"./");
        for &b in &item.name {
            if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
                page.push(b.into());
            } else {
                let _ = write!(page, "%{b:02X}");
            }
        }
        page.push_str(slash);
        page.push_str("\">");
        for c in String::from_utf8_lossy(&item.name).chars() {
            match c {
                '&' => page.push_str("&amp;"),
                '<' => page.push_str("&lt;"),
                '>' => page.push_str("&gt;"),
                '"' => page.push_str("&quot;"),
                '\'' => page.push_str("&#39;"),
                c => page.push(c),
            }
        }
        page.push_str(slash);
        page.push_str("</a>");
        if !item.folder {
            let _ = write!(page, " {} bytes", item.size);
        }
        page.push('\n');
    }
    if more {
        page.push_str("<li>and more\n");
    }
    page.push_str("</ul>\n");
    page
}

fn json(items: &[Item], more: bool) -> String {
    let mut text = String::from("{\"items\":[");
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str("{\"name\":\"");
        for c in String::from_utf8_lossy(&item.name).chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    let _ = write!(text, "\\u{:04x}", u32::from(c));
                }
                c => text.push(c),
            }
        }
        let kind = if item.folder { "folder" } else { "file" };
        let modified = HttpDate::from(item.modified);
        let modified = modified.to_value();
        let modified = modified.to_str().unwrap_or_default();
        let _ = write!(
            text,
            "\",\"type\":\"{kind}\",\"size\":{},\"modified\":\"{modified}\"}}",
            item.size
        );
    }
    let _ = writeln!(text, "],\"more\":{more}}}");
    text
}
