"""WebSocket by Python's `websockets`: `websocket.py serve` echoes and prints its port; `websocket.py talk PORT CA` talks to an
echo on this port by TLS, and fails if a message is changed or the end is not in order."""

import ssl
import sys

from websockets.sync.client import connect
from websockets.sync.server import serve


def echo(socket):
    for message in socket:
        socket.send(message)


def talk(port, authority):
    context = ssl.create_default_context(cafile=authority)
    messages = ["a", "", "ü" * 1000, b"\0" * 100_000]
    with connect(f"wss://localhost:{port}/chat", ssl=context) as socket:
        for message in messages:
            socket.send(message)
        for message in messages:
            assert socket.recv(timeout=20) == message
    assert socket.close_code == 1000, socket.close_code


if sys.argv[1] == "serve":
    with serve(echo, "127.0.0.1", 0) as server:
        print(server.socket.getsockname()[1], flush=True)
        server.serve_forever()
else:
    talk(int(sys.argv[2]), sys.argv[3])
