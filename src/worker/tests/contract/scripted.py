"""The application of a test of worker pools. The path of a request says what it does."""

import asyncio
import os
import select
import signal
import socket
import sys
import threading

control = instance = None
# With several lanes: the names that requests wait for, and what is called when the test releases them.
waiting = [] if "LANES" in os.environ else None


def line():
    text = b""
    while not text.endswith(b"\n"):
        byte = control.recv(1)
        assert byte, "the test has ended"
        text += byte
    return text.decode().rstrip("\n")


def say(what, name):
    control.sendall(("%s %s\n" % (what, name)).encode())


def wait(name):
    """Waits until the test releases it. It is stuck, so it does not end when it is asked to. The signal is blocked, since an
    exception between two calls of `recv` would lose a byte. With several lanes only its thread waits."""
    if waiting is not None:
        released = threading.Event()
        waiting.append((name, released.set))
        say("wait", name)
        released.wait()
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    say("wait", name)
    assert line() == "go " + name
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    except SystemExit:
        pass


def listen():
    """Releases the requests that the test names."""
    for text in control.makefile():
        name = text[len("go ") :].rstrip("\n")
        waiter = next(waiter for waiter in waiting if waiter[0] == name)
        waiting.remove(waiter)
        waiter[1]()


async def wait_async(name):
    """Waits like `wait`. With several lanes only its task waits."""
    if waiting is None:
        return wait(name)
    loop = asyncio.get_running_loop()
    released = loop.create_future()

    def release():
        if not released.done():
            released.set_result(None)

    waiting.append((name, lambda: loop.call_soon_threadsafe(release)))
    say("wait", name)
    await released


def begin():
    """Begins the life of a worker."""
    global control, instance
    control = socket.socket(socket.AF_UNIX)  # not that of another worker
    control.connect(os.environ["CONTROL"])
    instance, build = line().split(" ")
    if build == "Fail":
        print("no database", file=sys.stderr, flush=True)
        os._exit(1)
    if build == "Panic":
        os._exit(101)
    if waiting is not None:
        threading.Thread(target=listen, daemon=True).start()
    if build == "Hold":
        wait("/build")


def grow():
    """Takes 64 MiB, which stay in use."""
    grown.append(b"\1" * (64 << 20))


grown = []
if "FORKED" in os.environ:
    os.register_at_fork(after_in_child=begin)
else:
    begin()


def stream(path):
    yield b"abc"
    if path == "/stream-panic":
        os._exit(101)
    while path == "/endless":
        yield b""
        select.select([], [], [], 0.005)
    wait(path)
    if path == "/break":
        raise OSError("the disk is gone")
    if path != "/stream-hold":
        yield b"def"


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/memory"):
        grow()
    say("entered", path)
    if path == "/panic":
        os._exit(101)
    if path.startswith("/stream") or path in ("/endless", "/break"):
        start_response("200 OK", [("Content-Length", "6")] if path == "/stream" else [])
        return stream(path)
    if path.startswith("/hold") or path == "/memory-hold":
        wait(path)
    start_response("200 OK", [])
    return [("%s %s" % (path, instance)).encode()]


async def asgi(scope, receive, send):
    """The same with ASGI. With one lane it blocks its event loop where the other one blocks its thread."""
    assert scope["type"] == "http"
    path = scope["path"]
    if path.startswith("/memory"):
        grow()
    say("entered", path)
    if path == "/panic":
        os._exit(101)

    async def start(headers=()):
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def body(data, more):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if path.startswith("/stream") or path in ("/endless", "/break"):
        await start([(b"content-length", b"6")] if path == "/stream" else [])
        await body(b"abc", True)
        if path == "/stream-panic":
            os._exit(101)
        while path == "/endless":
            await asyncio.sleep(0.005)
            await body(b"", True)
        await wait_async(path)
        if path == "/break":
            raise OSError("the disk is gone")
        return await body(b"" if path == "/stream-hold" else b"def", False)
    if path.startswith("/hold") or path == "/memory-hold":
        await wait_async(path)
    await start()
    await body(("%s %s" % (path, instance)).encode(), False)
