//! WebSockets of a real application in Python, behind a pool of workers, and of a strict client in Python.

use std::env;

use futures_util::SinkExt;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::StreamExt;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

use super::program;
use crate::{
    tests::support::{exchange, start, statuses, within},
    upstream::{TunnelOptions, Upstream},
    worker,
};

/// An application for ASGI that sends each message to all clients.
const APP: &str = "
clients = set()

async def app(scope, receive, send):
    if scope['type'] == 'lifespan':
        while True:
            message = await receive()
            await send({'type': message['type'] + '.complete'})
            if message['type'] == 'lifespan.shutdown':
                return
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'plain'})
        return
    assert (await receive())['type'] == 'websocket.connect'
    if scope['path'] == '/no':
        await send({'type': 'websocket.close'})
        return
    await send({'type': 'websocket.accept'})
    clients.add(send)
    try:
        while True:
            message = await receive()
            if message['type'] == 'websocket.disconnect':
                return
            if message.get('text') == 'close':
                clients.discard(send)  # before it waits: others must not send to it any more
                await send({'type': 'websocket.close', 'code': 4000, 'reason': 'bye'})
                return
            for client in list(clients):
                await client({
                    'type': 'websocket.send', 'text': message.get('text'), 'bytes': message.get('bytes'),
                })
    finally:
        clients.discard(send)
";

/// An application that continues after a refusal or its close, and cancels a receive before it accepts.
const AWKWARD: &str = "
import asyncio, os

async def app(scope, receive, send):
    if scope['type'] == 'lifespan':
        while True:
            message = await receive()
            await send({'type': message['type'] + '.complete'})
            if message['type'] == 'lifespan.shutdown':
                return
    await receive()
    if scope['path'] == '/refused':
        await send({'type': 'websocket.close'})
        message = await receive()
        with open('new', 'w') as file:
            file.write(message['type'])
        os.rename('new', 'refused')
        return
    if scope['path'] == '/closed':
        await send({'type': 'websocket.accept'})
        await send({'type': 'websocket.close', 'code': 4003})
        with open('new', 'w') as file:
            file.write('%(type)s %(code)s' % await receive())
        os.rename('new', 'closed')
        return
    task = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    task.cancel()
    await send({'type': 'websocket.accept'})
    await send({'type': 'websocket.send', 'text': (await receive())['text']})
    await send({'type': 'websocket.close', 'code': 4000, 'reason': '\u{e9}' * 62})
";

/// The same with Starlette.
const STARLETTE: &str = "
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

clients = set()

async def chat(socket):
    await socket.accept()
    clients.add(socket)
    try:
        while True:
            message = await socket.receive()
            if message['type'] == 'websocket.disconnect':
                return
            if message.get('text') == 'close':
                clients.discard(socket)
                return await socket.close(4000, 'bye')
            for client in list(clients):
                await client.send({**message, 'type': 'websocket.send'})
    finally:
        clients.discard(socket)

async def no(socket):
    await socket.close()

async def plain(request):
    return PlainTextResponse('plain')

app = Starlette(routes=[Route('/', plain), WebSocketRoute('/chat', chat), WebSocketRoute('/no', no)])
";

/// The same with Django Channels.
const CHANNELS: &str = "
import django
from django.conf import settings

settings.configure(
    SECRET_KEY='of a test', ALLOWED_HOSTS=['*'], ROOT_URLCONF=__name__, INSTALLED_APPS=['channels'],
    CHANNEL_LAYERS={'default': {'BACKEND': 'channels.layers.InMemoryChannelLayer'}},
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

class Chat(AsyncWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add('all', self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard('all', self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == 'close':
            return await self.close(4000, 'bye')
        await self.channel_layer.group_send('all', {'type': 'tell', 'text': text_data, 'bytes': bytes_data})

    async def tell(self, event):
        await self.send(event['text'], event['bytes'])

class No(AsyncWebsocketConsumer):
    async def connect(self):
        await self.close()

urlpatterns = [path('', lambda request: HttpResponse('plain'))]
app = ProtocolTypeRouter({
    'http': get_asgi_application(),
    'websocket': URLRouter([path('chat', Chat.as_asgi()), path('no', No.as_asgi())]),
})
";

/// An application that notes the code with which its client has left. On `/late` it continues after that.
const LEAVING: &str = "
import asyncio, os

async def app(scope, receive, send):
    if scope['type'] != 'websocket':
        raise RuntimeError('there is no lifespan')
    await receive()
    await send({'type': 'websocket.accept'})
    message = await receive()
    name = scope['path'][1:]
    with open(name + '.new', 'w') as file:
        file.write('%s %s' % (message['type'], message['code']))
    os.rename(name + '.new', name)
    if name == 'late':
        await asyncio.sleep(3600)
";

/// A client that checks all that RFC 6455 demands of a server.
const CLIENT: &str = "
import sys
from websockets.sync.client import connect

uri = sys.argv[1]
with connect(uri, max_size=None) as a, connect(uri, max_size=None, compression=None) as b:
    for sent in ['hello', '', 'x' * 200_000, b'\\0\\1', b'y' * 1_000_000]:
        a.send(sent)
        assert a.recv(30) == sent and b.recv(30) == sent
    b.send(iter(['in ', 'three ', 'frames']))
    assert a.recv(30) == b.recv(30) == 'in three frames'
    assert a.ping().wait(30)
    a.send('close')
    try:
        a.recv(30)
        raise AssertionError('it goes on')
    except Exception as end:
        assert (end.rcvd.code, end.rcvd.reason) == (4000, 'bye'), end
    b.send('still here')
    assert b.recv(30) == 'still here'
print('ok')
";

fn python() -> String {
    env::var("VESTIBULE_PYTHON").expect("VESTIBULE_PYTHON names a Python")
}

/// A pool with one process of uvicorn, whose application is in `dir`.
fn uvicorn(dir: &std::path::Path) -> worker::Processes {
    std::fs::write(dir.join("chat.py"), APP).unwrap();
    let command = worker::Command::new(python())
        .args(["-m", "uvicorn", "--fd", "3", "--ws", "websockets", "--log-level", "warning"])
        .args(["--app-dir", dir.to_str().unwrap(), "chat:app"]);
    let pool = worker::process(command).workers(1).concurrency(2);
    pool.tunnels(TunnelOptions::new()).start().unwrap()
}

/// The same application in a process of `worker::asgi`, and one with Starlette.
fn asgi(dir: &std::path::Path, application: &str) -> worker::Processes {
    std::fs::write(dir.join("chat.py"), application).unwrap();
    let pool = worker::asgi("chat:app").python(python()).directory(dir).workers(1).threads(2);
    pool.start().unwrap()
}

async fn connect(
    addr: std::net::SocketAddr,
    path: &str,
) -> Result<WebSocketStream<TcpStream>, Error> {
    let stream = TcpStream::connect(addr).await.unwrap();
    within(client_async(format!("ws://{addr}{path}"), stream)).await.map(|(socket, _)| socket)
}

async fn hear(socket: &mut WebSocketStream<TcpStream>) -> Message {
    loop {
        let message = within(socket.next()).await.unwrap().unwrap();
        // A server may send pings at any time.
        if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
            return message;
        }
    }
}

#[tokio::test]
#[cfg_attr(
    not(peer_websockets),
    ignore = "pip install uvicorn websockets starlette channels; VESTIBULE_PYTHON=that python"
)]
async fn application_in_worker_processes_serves_websockets() {
    for kind in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let pool = match kind {
            0 => uvicorn(dir.path()),
            1 => asgi(dir.path(), APP),
            2 => asgi(dir.path(), CHANNELS),
            _ => asgi(dir.path(), STARLETTE),
        };
        serves_websockets(pool).await;
    }
}

async fn serves_websockets(pool: worker::Processes) {
    let front = start(pool.clone()).await;
    // More tunnels than the process is sent requests at a time: they occupy no worker.
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(connect(front.addr, "/chat").await.unwrap());
    }
    assert_eq!(pool.tunnel_stats().active, 4);
    // The application waits for each client in turn, so it fits into the buffers of a socket.
    let large = vec![7; 70_000];
    for message in [Message::text("hello"), Message::binary(large)] {
        within(sockets[0].send(message.clone())).await.unwrap();
        for socket in &mut sockets {
            assert!(hear(socket).await == message, "another message");
        }
    }
    let plain =
        exchange(front.addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(statuses(&plain) == [200] && plain.contains("plain"), "{plain}");
    let Err(Error::Http(refused)) = connect(front.addr, "/no").await else { panic!("accepted") };
    assert_eq!(refused.status(), 403);
    let mut last = sockets.pop().unwrap();
    within(last.send(Message::text("close"))).await.unwrap();
    let Message::Close(Some(frame)) = hear(&mut last).await else { panic!("no close") };
    assert_eq!((u16::from(frame.code), &*frame.reason), (4000, "bye"));
    drop(last);
    // A reload ends the old process, which says goodbye.
    within(pool.reload()).await.unwrap();
    for socket in &mut sockets {
        let Message::Close(Some(frame)) = hear(socket).await else { panic!("no close") };
        assert_eq!(u16::from(frame.code), 1012);
    }
    drop(sockets);
    within(async {
        while pool.tunnel_stats().active > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    front.stop().await;
    within(pool.shutdown(super::super::support::TIMEOUT)).await.unwrap();
}

#[tokio::test]
#[cfg_attr(
    not(peer_websockets),
    ignore = "pip install uvicorn websockets starlette channels; VESTIBULE_PYTHON=that python"
)]
async fn application_receives_disconnect_when_its_worker_or_its_server_ends() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("chat.py"), LEAVING).unwrap();
    let (exited, mut exits) = mpsc::unbounded_channel();
    let pool = worker::asgi("chat:app").python(python()).directory(dir.path()).workers(1);
    let on_exit = move |(_, status)| {
        let _ = exited.send(status); // the test may have ended
    };
    let pool = pool.on_exit(on_exit).start().unwrap();
    let front = start(pool.clone()).await;
    let noted = async |name: &str| loop {
        match std::fs::read_to_string(dir.path().join(name)) {
            Ok(text) => return text,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let closed_with = async |socket: &mut WebSocketStream<TcpStream>| {
        let Message::Close(Some(frame)) = hear(socket).await else { panic!("no close") };
        u16::from(frame.code)
    };
    let mut open = [
        connect(front.addr, "/reload").await.unwrap(),
        connect(front.addr, "/late").await.unwrap(),
    ];
    within(pool.reload()).await.unwrap();
    for (socket, name) in open.iter_mut().zip(["reload", "late"]) {
        assert_eq!(within(noted(name)).await, "websocket.disconnect 1012");
        assert_eq!(closed_with(socket).await, 1012);
    }
    drop(open);
    // It is not killed, although one of its tasks continued.
    assert_eq!(within(exits.recv()).await, Some(worker::ExitStatus::Code(0)));
    let mut last = connect(front.addr, "/shutdown").await.unwrap();
    let stop = tokio::spawn(front.stop());
    assert_eq!(closed_with(&mut last).await, 1001);
    assert_eq!(within(noted("shutdown")).await, "websocket.disconnect 1001");
    drop(last);
    stop.await.unwrap();
    within(pool.shutdown(super::super::support::TIMEOUT)).await.unwrap();
}

#[tokio::test]
#[cfg_attr(
    not(peer_websockets),
    ignore = "pip install uvicorn websockets starlette channels; VESTIBULE_PYTHON=that python"
)]
async fn application_receives_disconnect_after_its_close_and_messages_after_a_cancelled_receive() {
    let dir = tempfile::tempdir().unwrap();
    let pool = asgi(dir.path(), AWKWARD);
    let front = start(pool.clone()).await;
    let Err(Error::Http(refused)) = connect(front.addr, "/refused").await else {
        panic!("accepted")
    };
    assert_eq!(refused.status(), 403);
    let noted = async |name: &str| loop {
        match std::fs::read_to_string(dir.path().join(name)) {
            Ok(text) => return text,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(within(noted("refused")).await, "websocket.disconnect");
    // A client that does not answer a Close frame, and continues.
    let mut rude = connect(front.addr, "/closed").await.unwrap();
    within(rude.send(Message::text("more"))).await.unwrap();
    assert_eq!(within(noted("closed")).await, "websocket.disconnect 1006");
    drop(rude);
    let mut socket = connect(front.addr, "/").await.unwrap();
    let fragment = |text: &'static str, opcode: Data, is_last: bool| {
        Message::Frame(Frame::message(text, OpCode::Data(opcode), is_last))
    };
    for message in [
        fragment("first, ", Data::Text, false),
        fragment("", Data::Continue, false),
        fragment("in pieces", Data::Continue, true),
        Message::text("second"),
    ] {
        within(socket.send(message)).await.unwrap();
    }
    assert_eq!(hear(&mut socket).await, Message::text("first, in pieces"));
    let Message::Close(Some(frame)) = hear(&mut socket).await else { panic!("no close") };
    // At most 123 bytes, and not within a character.
    assert_eq!((u16::from(frame.code), &*frame.reason), (4000, &*"\u{e9}".repeat(61)));
    drop(socket);
    front.stop().await;
    within(pool.shutdown(super::super::support::TIMEOUT)).await.unwrap();
}

#[tokio::test]
#[cfg_attr(
    not(peer_websockets),
    ignore = "pip install uvicorn websockets; VESTIBULE_PYTHON=that python"
)]
async fn strict_client_reaches_an_application_through_two_proxies() {
    for is_asgi in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let pool = if is_asgi { asgi(dir.path(), APP) } else { uvicorn(dir.path()) };
        reaches_through_two_proxies(pool).await;
    }
}

async fn reaches_through_two_proxies(pool: worker::Processes) {
    let inner = start(pool.clone()).await;
    let front = start(Upstream::new([format!("h2://{}", inner.addr)]).unwrap()).await;
    let uri = format!("ws://{}/chat", front.addr);
    let out = within(program(&python()).args(["-c", CLIENT, &uri]).output()).await.unwrap();
    let error = String::from_utf8_lossy(&out.stderr);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "ok\n", "{error}");
    front.stop().await;
    inner.stop().await;
    within(pool.shutdown(super::super::support::TIMEOUT)).await.unwrap();
}
