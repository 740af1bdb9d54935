//! The Content-Type of a file by its extension.

use http::HeaderValue;

/// Returns the media type for the extension of `path`.
///
/// Text has `charset=utf-8`: without a charset browsers guess by the language of their user.
pub(super) fn guess_content_type(path: &str) -> HeaderValue {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let Some(media_type) = mime_guess::from_ext(extension).first_raw() else {
        return HeaderValue::from_static("application/octet-stream");
    };
    if is_text(media_type) {
        HeaderValue::try_from(format!("{media_type}; charset=utf-8"))
            .expect("media types are ASCII")
    } else {
        HeaderValue::from_static(media_type)
    }
}

fn is_text(media_type: &str) -> bool {
    media_type.starts_with("text/")
        || media_type.ends_with("+json")
        || matches!(
            media_type,
            "application/javascript"
                | "application/x-javascript"
                | "application/json"
                | "image/svg+xml"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_decides_type_and_text_is_utf_8() {
        let table = [
            ("a/index.html", "text/html; charset=utf-8"),
            ("style.CSS", "text/css; charset=utf-8"),
            ("app.js", "text/javascript; charset=utf-8"),
            ("data.json", "application/json; charset=utf-8"),
            ("site.webmanifest", "application/manifest+json; charset=utf-8"),
            ("logo.svg", "image/svg+xml; charset=utf-8"),
            ("photo.jpeg", "image/jpeg"),
            ("font.woff2", "font/woff2"),
            ("module.wasm", "application/wasm"),
            ("archive.tar.gz", "application/gzip"),
            ("LICENSE", "application/octet-stream"),
            ("a.b/html", "application/octet-stream"),
            ("x.unheard-of", "application/octet-stream"),
            ("page.html::$DATA", "application/octet-stream"),
        ];
        for (path, want) in table {
            assert_eq!(guess_content_type(path), want, "{path}");
        }
    }
}
