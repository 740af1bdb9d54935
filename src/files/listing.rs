//! `Listing`: the items of a directory as HTML and as JSON.

use std::{fmt::Write, io, ops::ControlFlow};

use bytes::Bytes;

use super::{
    backend::{Item, View},
    escape,
    lookup_config::LookupConfig,
};
use crate::semantics::{
    date::HttpDate,
    target::{file_path, normalize},
};

/// Maximum number of listed items, 10,000. The listing of a larger directory says that there are more.
const MAX_ITEMS: usize = 10_000;

#[derive(Debug)]
pub(super) struct Listing {
    pub(super) html: Bytes,
    pub(super) json: Bytes,
}

impl Listing {
    /// Reads the directory. May block.
    pub(super) fn read(view: View<'_>, directory: &str, config: &LookupConfig) -> io::Result<Self> {
        let mut items = Vec::new();
        let mut has_more = false;
        view.list(directory, &mut |item| {
            let is_shown = config.hidden || !item.name.starts_with(b".");
            let is_excluded = !item.is_directory && config.is_excluded(&item.name);
            if is_shown && !is_excluded && has_target(&item.name) {
                has_more = items.len() >= MAX_ITEMS;
                if has_more {
                    return ControlFlow::Break(());
                }
                items.push(item);
            }
            ControlFlow::Continue(())
        })?;
        // Directories first, then by name.
        items.sort_by(|a, b| (!a.is_directory, &a.name).cmp(&(!b.is_directory, &b.name)));
        Ok(Self { html: to_html(&items, has_more).into(), json: to_json(&items, has_more).into() })
    }
}

/// Returns whether a request can name it. For example, the link of a name with control characters would be a
/// 400.
fn has_target(name: &[u8]) -> bool {
    let path = format!("/{}", escape::escape_path(name));
    normalize(&path).is_ok_and(|normal| file_path(&normal).is_ok())
}

fn to_html(items: &[Item], has_more: bool) -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Files</title>\n<ul>\n\
         <li><a href=\"../\">../</a>\n",
    );
    for item in items {
        let slash = if item.is_directory { "/" } else { "" };
        // Relative with `./`, so that no name is taken for a scheme or another host.
        page.push_str("<li><a href=\"./");
        page.push_str(&escape::escape_path(&item.name));
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
        if !item.is_directory {
            let _ = write!(page, " {} bytes", item.size);
        }
        page.push('\n');
    }
    if has_more {
        page.push_str("<li>and more\n");
    }
    page.push_str("</ul>\n");
    page
}

fn to_json(items: &[Item], has_more: bool) -> String {
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
        let item_type = if item.is_directory { "folder" } else { "file" };
        let _ = write!(text, "\",\"type\":\"{item_type}\",\"size\":{}", item.size);
        if let Some(modified) = item.modified {
            let modified = HttpDate::from(modified).to_value();
            let _ = write!(text, ",\"modified\":\"{}\"", modified.to_str().unwrap_or_default());
        }
        text.push('}');
    }
    let _ = writeln!(text, "],\"more\":{has_more}}}");
    text
}
