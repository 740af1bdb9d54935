//! The chat with clients of `tokio-tungstenite`, alone and through a proxy, and with two pages in a browser.

use std::{process::Stdio, sync::Arc, time::Duration};

use tokio::{net::TcpStream, process::Command, sync::oneshot, task::JoinHandle};
use tokio_tungstenite::client_async;
use vestibule::{net::Address, upstream::Upstream};

use super::*;

/// A server on a free port.
struct Server {
    address: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

#[allow(clippy::disallowed_methods, reason = "the test awaits the task")]
async fn start<S>(service: S) -> Server
where
    S: HttpService<Body, Future: Send> + Clone + Send + Sync + 'static,
{
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve("127.0.0.1:0", service).shutdown(async { drop(stopped.await) });
    let server = server.bind().unwrap();
    let Address::Tcp(address) = server.local_addr().unwrap() else { panic!("not TCP") };
    Server { address: address.to_string(), stop, task: tokio::spawn(server.into_future()) }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(60), future).await.expect("it hangs")
}

async fn join(address: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, response) =
        within(client_async(format!("ws://{address}/chat"), stream)).await.unwrap();
    assert_eq!(response.status(), 101);
    socket
}

async fn say(socket: &mut WebSocketStream<TcpStream>, text: &str) {
    within(socket.send(Message::text(text))).await.unwrap();
}

async fn hear(socket: &mut WebSocketStream<TcpStream>) -> Message {
    within(socket.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn chat_works_alone_and_through_a_proxy() {
    for has_proxy in [false, true] {
        let chat = start(site(MAX_CLIENTS)).await;
        let proxy = start(Upstream::new([&chat.address]).unwrap()).await;
        let address = if has_proxy { &proxy.address } else { &chat.address };
        let (mut ann, mut bob) = (join(address).await, join(address).await);
        let long = "ü".repeat(MAX_MESSAGE / 2);
        for text in ["hello", "", &long] {
            say(&mut ann, text).await;
            for socket in [&mut ann, &mut bob] {
                assert_eq!(hear(socket).await, Message::text(text));
            }
        }
        within(bob.send(Message::Ping("x".into()))).await.unwrap();
        assert_eq!(hear(&mut bob).await, Message::Pong("x".into()));
        // A message that is too long: its client gets an error, and the others continue.
        say(&mut bob, &"x".repeat(MAX_MESSAGE + 1)).await;
        let Message::Close(Some(frame)) = hear(&mut bob).await else { panic!("no close") };
        assert_eq!(frame.code, CloseCode::Size);
        say(&mut ann, "still here").await;
        assert_eq!(hear(&mut ann).await, Message::text("still here"));
        // A shutdown of the chat sends Close frames, also through the proxy.
        let _ = chat.stop.send(());
        let Message::Close(Some(frame)) = hear(&mut ann).await else { panic!("no close") };
        assert_eq!(frame.code, CloseCode::Away);
        assert!(within(ann.next()).await.is_none());
        drop((ann, bob));
        within(chat.task).await.unwrap().unwrap();
        let _ = proxy.stop.send(());
        within(proxy.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn close_of_a_client_is_confirmed() {
    let chat = start(site(MAX_CLIENTS)).await;
    let mut ann = join(&chat.address).await;
    let frame = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    within(ann.close(Some(frame))).await.unwrap();
    let Message::Close(Some(frame)) = hear(&mut ann).await else { panic!("no close") };
    assert_eq!(frame.code, CloseCode::Normal);
    assert!(within(ann.next()).await.is_none());
}

#[tokio::test]
async fn full_room_refuses_clients_until_one_leaves() {
    let chat = start(site(1)).await;
    let ann = join(&chat.address).await;
    let stream = TcpStream::connect(&chat.address).await.unwrap();
    let address = format!("ws://{}/chat", chat.address);
    let refused = within(client_async(&address, stream)).await.unwrap_err();
    let Error::Http(response) = refused else { panic!("{refused}") };
    assert_eq!(response.status(), 503);
    drop(ann);
    let rejoined = async {
        loop {
            let stream = TcpStream::connect(&chat.address).await.unwrap();
            if client_async(&address, stream).await.is_ok() {
                break;
            }
        }
    };
    within(rejoined).await;
}

#[tokio::test]
async fn page_of_another_site_is_refused() {
    let chat = start(site(MAX_CLIENTS)).await;
    let stream = TcpStream::connect(&chat.address).await.unwrap();
    let request = http::Request::get(format!("ws://{}/chat", chat.address))
        .header("host", &chat.address)
        .header("origin", "https://evil.example")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .unwrap();
    let refused = within(client_async(request, stream)).await.unwrap_err();
    let Error::Http(response) = refused else { panic!("{refused}") };
    assert_eq!(response.status(), 403);
}

/// A page with the chat in a frame. It sends the name in its query, and reports when it has received the other's message.
/// A busy Chromium sometimes makes no TCP connection for a WebSocket; the frame is then loaded again.
const DRIVER: &str = "<!doctype html><title>driver</title><iframe src=/></iframe><script>
const [me, other] = location.search.slice(1).split('&');
const frame = document.querySelector('iframe');
let loaded = Date.now();
const timer = setInterval(() => {
  const page = frame.contentDocument;
  const text = page && page.getElementById('text');
  if (!text) loaded = Date.now();
  if (!text || text.disabled) {
    if (Date.now() - loaded < 3000) return;
    loaded = Date.now();
    return frame.contentWindow.location.reload();
  }
  text.value = me;
  page.querySelector('form').requestSubmit();
  if (![...page.querySelectorAll('li')].some(item => item.textContent === other)) return;
  clearInterval(timer);
  fetch('/heard?' + other, {method: 'POST'}).then(() => location = 'about:blank');
}, 50);
</script>";

#[tokio::test]
#[cfg_attr(not(peer_chromium), ignore = "apt-get install chromium")]
async fn two_pages_of_a_browser_hear_each_other() {
    let (heard, mut told) = tokio::sync::mpsc::unbounded_channel();
    let heard = Arc::new(heard);
    let driver = service_fn(|_: Request| async {
        let mut page = Response::new(Body::from(DRIVER));
        page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        Ok::<_, Infallible>(page)
    });
    let hear = service_fn(move |request: Request| {
        let _ = heard.send(request.uri().query().unwrap_or_default().to_owned());
        async { Ok::<_, Infallible>(Response::new(Body::empty())) }
    });
    let front =
        Router::new().route("/driver", driver).route("/heard", hear).fallback(site(MAX_CLIENTS));
    let server = start(front).await;
    let profiles = tempfile::tempdir().unwrap();
    let pages = ["ann&bob", "bob&ann"].map(|names| {
        let profile = profiles.path().join(&names[..3]);
        Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            .arg("--remote-debugging-port=0") // keeps it running until it is killed
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("http://{}/driver?{names}", server.address))
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    });
    let mut names = vec![within(told.recv()).await.unwrap(), within(told.recv()).await.unwrap()];
    names.sort_unstable();
    assert_eq!(names, ["ann", "bob"]);
    for mut page in pages {
        page.kill().await.unwrap();
    }
}
