//! The application: a guest book that reads a form, keeps state and renders HTML.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use percent_encoding::percent_decode_str;
use vestibule::{Body, Response};

/// The maximum number of entries; the oldest are removed.
const MAX_ENTRIES: usize = 100;

/// The maximum number of characters of a name and of a message.
const MAX_NAME: usize = 40;
const MAX_MESSAGE: usize = 500;

/// The entries, which all workers share.
#[derive(Clone, Default)]
pub struct Book(Arc<Mutex<VecDeque<Entry>>>);

struct Entry {
    name: String,
    message: String,
}

/// A worker's instance of the application.
pub struct GuestBook {
    book: Book,
    /// The buffer in which a page is rendered; its memory is reused.
    page: String,
    served: u64,
}

impl GuestBook {
    pub fn new(book: Book) -> Self {
        Self { book, page: String::new(), served: 0 }
    }

    pub fn handle(&mut self, request: &Request<Bytes>) -> Response {
        self.served += 1;
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET | &Method::HEAD, "/guestbook/") => self.render(StatusCode::OK, ""),
            (&Method::POST, "/guestbook/") => self.sign(request.body()),
            (&Method::GET | &Method::HEAD, "/guestbook") => see_other(),
            (_, "/guestbook" | "/guestbook/") => {
                let mut response = self.render(StatusCode::METHOD_NOT_ALLOWED, "Use the form.");
                // RFC 9110 section 15.5.6: a 405 must name the supported methods.
                let allow = HeaderValue::from_static("GET, HEAD, POST");
                response.headers_mut().insert(header::ALLOW, allow);
                response
            }
            _ => self.render(StatusCode::NOT_FOUND, "There is no such page."),
        }
    }

    /// Adds an entry, or renders the page with an error message.
    fn sign(&mut self, form: &[u8]) -> Response {
        let (Some(name), Some(message)) = (field(form, "name"), field(form, "message")) else {
            return self.render(StatusCode::BAD_REQUEST, "The request has no name or no message.");
        };
        let (name, message) = (name.trim(), message.trim());
        let fits = |text: &str, max| (1..=max).contains(&text.chars().count());
        if !fits(name, MAX_NAME) || !fits(message, MAX_MESSAGE) {
            let what = "Please enter a name of at most 40 and a message of at most 500 characters.";
            return self.render(StatusCode::UNPROCESSABLE_ENTITY, what);
        }
        let mut book = self.book.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.push_front(Entry { name: name.to_owned(), message: message.to_owned() });
        book.truncate(MAX_ENTRIES);
        drop(book);
        see_other()
    }

    fn render(&mut self, status: StatusCode, problem: &str) -> Response {
        let page = &mut self.page;
        page.clear();
        page.push_str(include_str!("guestbook_head.html"));
        if !problem.is_empty() {
            let _ = write!(page, "<p class=problem role=alert>{}</p>", escape(problem));
        }
        page.push_str("<ul class=entries>");
        let book = self.book.0.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in book.iter() {
            let (name, message) = (escape(&entry.name), escape(&entry.message));
            let _ = write!(page, "<li><b>{name}</b><p>{message}</p></li>");
        }
        if book.is_empty() {
            page.push_str("<li class=none>No entries yet. Be the first!</li>");
        }
        drop(book);
        let worker = std::thread::current();
        let worker = worker.name().unwrap_or("a worker");
        let _ = write!(
            page,
            "</ul><footer>Rendered by {worker}, which has served {}.</footer></main>",
            self.served
        );
        let mut response = Response::new(Body::from(page.clone()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            // The other directives have no fallback to default-src.
            HeaderValue::from_static(
                "default-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
            ),
        );
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// Redirects to the page after a form, so that reloading does not submit the form again.
fn see_other() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/guestbook/"));
    response
}

/// Returns a field of an `application/x-www-form-urlencoded` body.
fn field(form: &[u8], name: &str) -> Option<String> {
    let form = std::str::from_utf8(form).ok()?;
    let (_, value) = form.split('&').filter_map(|f| f.split_once('=')).find(|(n, _)| *n == name)?;
    let plain = value.replace('+', " ");
    percent_decode_str(&plain).decode_utf8().ok().map(Cow::into_owned)
}

/// Escapes text for an HTML element or a quoted attribute.
fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['<', '>', '&', '"', '\'']) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(book: &mut GuestBook, method: &str, path: &str, form: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Bytes::from(form.to_owned())).unwrap();
        let response = book.handle(&request);
        let page = response.body().as_bytes().unwrap();
        (response.status().as_u16(), String::from_utf8(page.to_vec()).unwrap())
    }

    #[test]
    fn entry_is_shown_by_every_worker_as_text() {
        let book = Book::default();
        let (mut one, mut other) = (GuestBook::new(book.clone()), GuestBook::new(book));
        let form = "name=A%26B&message=%3Cscript%3E+%22x%22+%C3%BC";
        assert_eq!(send(&mut one, "POST", "/guestbook/", form), (303, String::new()));
        let (status, page) = send(&mut other, "GET", "/guestbook/", "");
        assert_eq!(status, 200);
        assert!(page.contains("<b>A&amp;B</b><p>&lt;script&gt; &quot;x&quot; ü</p>"), "{page}");
    }

    #[test]
    fn invalid_entry_is_refused_and_not_kept() {
        let mut book = GuestBook::new(Book::default());
        let long = format!("name={}&message=m", "n".repeat(MAX_NAME + 1));
        for (form, want) in [
            ("", 400),
            ("name=n", 400),
            ("name=n&message=%ff", 400),
            ("name=&message=m", 422),
            ("name=+&message=m", 422),
            (&long, 422),
        ] {
            assert_eq!(send(&mut book, "POST", "/guestbook/", form).0, want, "{form}");
        }
        assert!(send(&mut book, "GET", "/guestbook/", "").1.contains("No entries yet"));
    }

    #[test]
    fn book_keeps_bounded_number_of_entries() {
        let mut book = GuestBook::new(Book::default());
        for i in 0..=MAX_ENTRIES {
            send(&mut book, "POST", "/guestbook/", &format!("name=n{i}&message=m"));
        }
        let (_, page) = send(&mut book, "GET", "/guestbook/", "");
        assert_eq!(page.matches("<li>").count(), MAX_ENTRIES);
        assert!(page.contains(&format!("<b>n{MAX_ENTRIES}</b>")) && !page.contains("<b>n0</b>"));
    }

    #[test]
    fn unsupported_method_is_answered_with_allow() {
        let mut book = GuestBook::new(Book::default());
        let request = Request::delete("/guestbook/").body(Bytes::new()).unwrap();
        let response = book.handle(&request);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (405, &HeaderValue::from_static("GET, HEAD, POST"))
        );
        assert_eq!(send(&mut book, "POST", "/guestbook", "name=n&message=m").0, 405);
    }
}
