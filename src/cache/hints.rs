//! 103 Early Hints (RFC 8297) with the links of a stored response.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request};

use crate::conn::InterimResponses;

/// The maximum number of `Link` fields in a 103, 16.
const MAX_LINKS: usize = 16;

/// The link relations that browsers act on in a 103.
const RELATIONS: [&str; 3] = ["preload", "modulepreload", "preconnect"];

const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Sends the links of a stored response in a 103, if the request is a navigation of a browser.
pub(super) fn send(request: &request::Parts, stored: &HeaderMap) {
    let navigates = request.headers.get(FETCH_MODE).is_some_and(|mode| mode == "navigate");
    let (true, Some(interim)) = (navigates, request.extensions.get::<InterimResponses>()) else {
        return;
    };
    let links = stored.get_all(header::LINK).iter().filter(|link| is_early(link));
    let links: HeaderMap = links.take(MAX_LINKS).map(|link| (header::LINK, link.clone())).collect();
    if !links.is_empty() {
        // Fails if too many interim responses wait; a hint is dispensable.
        let _ = interim.send(StatusCode::EARLY_HINTS, links);
    }
}

/// Returns whether a field contains a link with one of [`RELATIONS`]. Browsers ignore its other links.
fn is_early(link: &HeaderValue) -> bool {
    let Ok(link) = link.to_str() else { return false };
    let mut parameters = link.split([';', ',']).filter_map(|p| p.trim().split_once('='));
    parameters.any(|(name, value)| {
        let relations = value.trim_matches(['"', ' ']).split(' ');
        name.trim().eq_ignore_ascii_case("rel")
            && relations
                .into_iter()
                .any(|r| RELATIONS.iter().any(|known| r.eq_ignore_ascii_case(known)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the links that are sent.
    fn sent(mode: Option<&str>, links: &[&str]) -> Vec<String> {
        let interim = InterimResponses::new();
        let mut request = http::Request::get("/").extension(interim.clone());
        if let Some(mode) = mode {
            request = request.header(FETCH_MODE, mode);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let stored = links.iter().map(|link| (header::LINK, link.parse().unwrap())).collect();
        send(&head, &stored);
        let Some((status, headers)) = interim.take() else { return Vec::new() };
        assert_eq!((status, interim.take()), (StatusCode::EARLY_HINTS, None));
        headers.get_all(header::LINK).iter().map(|l| l.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn links_of_early_relations_are_sent_for_navigations() {
        let early = [
            "</a.css>; rel=preload; as=style",
            "</b.js>; REL=\"modulepreload\"",
            "<https://c>; rel=\"dns-prefetch preconnect\"",
            "</d>; rel=next, </e>; rel=preload",
        ];
        let others = ["</preload>; rel=next", "</f>; rel=stylesheet", "</g>", "rel"];
        let all = [&early[..], &others].concat();
        assert_eq!(sent(Some("navigate"), &all), early);
        assert!(sent(Some("cors"), &all).is_empty() && sent(None, &all).is_empty());
        assert!(sent(Some("navigate"), &others).is_empty());
        assert_eq!(sent(Some("navigate"), &[early[0]; MAX_LINKS + 1]).len(), MAX_LINKS);
    }
}
