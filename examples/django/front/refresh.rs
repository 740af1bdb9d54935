//! `refresh`: makes the browser reload pages when the project has changed.

use bytes::Bytes;
use http::{HeaderValue, header};
use tokio::sync::watch;
use tower::Layer;
use vestibule::{
    Body, BoxError, HttpService, Request, Response,
    layer::{self, Next},
};

/// Path of the event stream, with one event for each reload of the workers.
const EVENTS: &str = "/__vestibule/events";

/// Path of the script that waits for an event.
const SCRIPT_PATH: &str = "/__vestibule/refresh.js";
const SCRIPT: &str = r#"new EventSource("/__vestibule/events").addEventListener("reload", () => location.reload());
"#;

/// The element that is appended to each page.
const TAG: &[u8] = b"<script src=\"/__vestibule/refresh.js\" defer></script>";

/// Serves the script and its events, and adds the script to each page of `site`.
pub fn refresh<S>(
    site: S,
    changes: watch::Receiver<u64>,
) -> impl HttpService<Future: Send + 'static> + Clone + Send + Sync
where
    S: HttpService<Future: Send + 'static> + Clone + Send + Sync + 'static,
{
    let answer = move |request: Request, next: Next| {
        let changes = changes.clone();
        async move {
            match request.uri().path() {
                EVENTS => Ok(events(changes)),
                SCRIPT_PATH => Ok(script()),
                _ => Ok::<_, BoxError>(with_script(next.run(request).await?)),
            }
        }
    };
    layer::from_fn(answer).layer(site)
}

fn script() -> Response {
    let mut response = Response::new(Body::from(SCRIPT));
    let kind = HeaderValue::from_static("text/javascript; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Returns the event stream, which ends when the client disconnects or the program exits.
fn events(mut changes: watch::Receiver<u64>) -> Response {
    let (sender, body) = Body::channel(None);
    #[allow(clippy::disallowed_methods, reason = "the task ends with the response")]
    tokio::spawn(async move {
        changes.mark_unchanged();
        // The head of the response is sent with the first piece of its body.
        let mut event = Bytes::from_static(b": waiting\n\n");
        while sender.send(event).is_ok() {
            let disconnected = std::future::poll_fn(|cx| sender.poll_closed(cx));
            tokio::select! {
                () = disconnected => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            event = Bytes::from_static(b"event: reload\ndata:\n\n");
        }
    });
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Adds the script to a page whose body is complete and in memory.
fn with_script(mut response: Response) -> Response {
    let headers = response.headers();
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let is_page = kind.starts_with(b"text/html") && !headers.contains_key(header::CONTENT_ENCODING);
    let Some(page) = response.body().as_bytes().filter(|_| is_page) else { return response };
    if page.is_empty() {
        return response;
    }
    let page = Bytes::from([&page[..], TAG].concat());
    response.headers_mut().remove(header::CONTENT_LENGTH); // the server sets the new length
    *response.body_mut() = Body::from(page);
    response
}
