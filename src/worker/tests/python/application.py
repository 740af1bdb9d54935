"""A WSGI application whose path says what it does."""

import itertools
import marshal
import os
import resource
import signal
import socket
import sys
import threading
import time
from wsgiref.validate import validator

with open("loaded", "a") as loaded:
    loaded.write("once\n")
while os.path.exists("hold-load"):
    time.sleep(0.001)
if "HIDE_PROC" in os.environ:
    listdir = os.listdir

    def without_proc(path):
        """Fails as in a sandbox."""
        if path.startswith("/proc"):
            raise PermissionError(path)
        return listdir(path)

    os.listdir = without_proc


def hold_fork():
    """Is called before a fork: waits if the test wants that, until it allows the fork."""
    if os.path.exists("hold-fork"):
        os.rename("hold-fork", "holding-fork")
    while os.path.exists("holding-fork"):
        time.sleep(0.001)


os.register_at_fork(before=hold_fork)
CACHE = {}


def hold_refork():
    """Is called before a refork: waits until the test allows it."""
    with open("preparing-new", "w") as file:
        file.write(str(os.getpid()))
    os.rename("preparing-new", "preparing")
    while not os.path.exists("prepared"):
        time.sleep(0.001)


def refuse_refork():
    raise KeyError("not now")


# Responses with values of wrong types: the status, the fields and the body.
MISTYPED = {
    "body": ("200 OK", [], lambda: ["text"]),
    "piece": ("200 OK", [("Content-Length", "4")], lambda: iter(["text"])),
    "number": ("200 OK", [], lambda: [3]),
    "status": (["200 OK"], [], lambda: [b"x"]),
    "fields": ("200 OK", {"X-A": "b"}, lambda: [b"x"]),
    "field": ("200 OK", ["X-A: b"], lambda: [b"x"]),
    "list": ("200 OK", [("X-A", ["b"])], lambda: [b"x"]),
    "integer": ("200 OK", [("X-A", 1 << 31)], lambda: [b"x"]),
    "begun": ("200 OK", [("X-A", ["b"])], lambda: iter([b"x", b"y"])),
    "view": ("200 OK", [], lambda: [memoryview(b"view")]),
}


def take_descriptors():
    """Leaves this process without free descriptors."""
    lowest = next(fd for fd in itertools.count() if not os.path.lexists("/proc/self/fd/%d" % fd))
    maximum = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, maximum))


class Body:
    """An iterable that says in a file that it was closed, and then raises an exception if it has one."""

    def __init__(self, pieces, path, error=None):
        self.pieces, self.path, self.error = pieces, path, error

    def __iter__(self):
        return self.pieces

    def close(self):
        with open("closing", "w") as file:
            file.write(self.path)
        os.rename("closing", "closed")
        if self.error:
            raise self.error


def wait():
    while not os.path.exists("go"):
        time.sleep(0.001)


def slow():
    yield b"first"
    wait()
    yield b"rest"


def ticks():
    yield b"tick"
    while True:
        yield b""
        time.sleep(0.001)


def late(error):
    yield b"first"
    raise error


def front():
    return socket.socket(fileno=os.dup(3))


def garbage_late():
    yield b"first"
    front().send(b"220 smtp.example.com ESMTP")
    time.sleep(60)


def forever():
    try:
        while True:
            time.sleep(0.001)
    except BaseException as error:
        with open("ending", "w") as file:
            file.write("SystemExit" if isinstance(error, SystemExit) else repr(error))
        os.rename("ending", "ended")
        raise


def application(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    plain = [("Content-Type", "text/plain")]
    if path == "/pieces":
        start_response("200 OK", plain)
        return iter([b"one", b"", b"two"])
    if path == "/detach":
        environ["wsgi.input"].detach().close()
        start_response("200 OK", plain)
        return [b"detached"]
    if path == "/read":
        start_response("200 OK", plain)
        body = environ["wsgi.input"]
        lines = [body.readline(), body.readline()]
        rest = 0
        while True:
            piece = body.read(100000)
            if not piece:
                break
            rest += len(piece)
        lines = [line.decode().replace("\n", "\\n") for line in lines]
        return [("%s %s %d" % (*lines, rest)).encode()]
    if path == "/error-log":
        environ["wsgi.errors"].write("one\ntwo")
        environ["wsgi.errors"].flush()
        start_response("200 OK", plain)
        return [b"logged"]
    if path == "/slow":
        start_response("200 OK", plain)
        return Body(slow(), path)
    if path == "/written":
        write = start_response("200 OK", plain)
        write(b"first")
        wait()
        return Body(iter([b"rest"]), path)
    if path == "/ticks":
        start_response("200 OK", plain)
        return Body(ticks(), path)
    if path == "/ticks-unclosable":
        start_response("200 OK", plain)
        return Body(ticks(), path, KeyError("close"))
    if path == "/file":
        with open("file", "wb") as file:
            file.write(b"01234567890123456789")
        start_response("200 OK", [("Content-Length", "10")])
        file = open("file", "rb")
        file.seek(5)
        return environ["wsgi.file_wrapper"](file)
    if path == "/no-file":
        import io

        start_response("200 OK", plain)
        return environ["wsgi.file_wrapper"](io.BytesIO(b"in memory"), 3)
    if path == "/gzip-file":
        import gzip

        with gzip.open("file.gz", "wb") as file:
            file.write(b"decoded")
        start_response("200 OK", plain)
        return environ["wsgi.file_wrapper"](gzip.open("file.gz", "rb"))
    if path == "/temporary-file":
        import tempfile

        file = tempfile.NamedTemporaryFile()
        file.write(b"temporary")
        file.seek(0)
        start_response("200 OK", plain)
        return environ["wsgi.file_wrapper"](file)
    if path == "/raise":
        raise KeyError("name")
    if path == "/exit":
        sys.exit(3)
    if path == "/not-started":
        return [b"x"]
    if path == "/huge-head":
        start_response("200 OK", [("x", "y" * 300000)])
        return []
    if path == "/exc-info":
        start_response("200 OK", plain)
        try:
            raise KeyError("early")
        except KeyError:
            start_response("503 Sorry", plain, sys.exc_info())
        return [b"sorry"]
    if path == "/exc-info-late":
        write = start_response("200 OK", plain)
        write(b"first")
        try:
            raise KeyError("late")
        except KeyError:
            start_response("503 Sorry", plain, sys.exc_info())
        return [b"never"]
    if path == "/raise-late":
        start_response("200 OK", plain)
        return late(KeyError("late"))
    if path == "/split":
        start_response("200 OK", [("X-A", "a\r\nSet-Cookie: b=c")])
        return [b"x"]
    if path == "/number":
        start_response("200 OK", [("X-A", 3)])
        return [b"x"]
    if path == "/mistyped":
        status, headers, body = MISTYPED[query]
        start_response(status, headers)
        return body()
    if path == "/length":
        start_response("200 OK", [("Content-Length", query)])
        return [b"abc"]
    if path == "/stream-length":
        start_response("200 OK", [("Content-Length", query)])
        return iter([b"abc", b"def"])
    if path == "/no-content":
        start_response("204 No Content", [])
        return [b"not sent"]
    if path == "/garbage":
        front().send(b"220 smtp.example.com ESMTP")
        time.sleep(60)
    if path == "/other-request":
        front().send(marshal.dumps((4, 12345), 2))
        time.sleep(60)
    if path == "/descriptor":
        socket.send_fds(front(), [marshal.dumps((4, 0), 2)], [0])
        time.sleep(60)
    if path == "/no-regular-file":
        descriptor = os.open("/dev/zero", os.O_RDONLY)
        frame = marshal.dumps((5, 1, "200 OK", [], 0, 10), 2)
        socket.send_fds(front(), [frame], [descriptor])
        time.sleep(60)
    if path == "/garbage-late":
        start_response("200 OK", plain)
        return garbage_late()
    if path == "/forever":
        forever()
    if path == "/load":
        start_response("200 OK", plain)
        return [b"/load %d" % os.getpid()]
    if path == "/fill":
        CACHE[query] = os.getpid()
        start_response("200 OK", plain)
        return [b"filled"]
    if path == "/cache":
        start_response("200 OK", plain)
        return [b"%d %d %d" % (os.getpid(), os.getppid(), CACHE.get(query, 0))]
    if path == "/uncopyable":
        os.register_at_fork(after_in_child=lambda: os._exit(3))
        start_response("200 OK", plain)
        return [b"registered"]
    if path == "/thread":
        threading.Thread(target=time.sleep, args=(60,), daemon=True, name="exporter").start()
        start_response("200 OK", plain)
        return [b"started"]
    if path == "/connect":
        listener = socket.create_server(("127.0.0.1", 0))
        CACHE[query] = socket.create_connection(listener.getsockname()), listener
        start_response("200 OK", plain)
        return [b"connected"]
    if path == "/echo":
        start_response("200 OK", plain)
        return [query.encode()]
    if path == "/take-descriptors":
        take_descriptors()
        start_response("200 OK", plain)
        return [b"taken"]
    if path == "/fork-and-end":
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writer, b"x")
                while True:
                    time.sleep(0.001)
            finally:
                os._exit(7)
        os.read(reader, 1)
        os.kill(pid, signal.SIGTERM)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        start_response("200 OK", plain)
        return [b"%d" % status]
    if path == "/late":
        time.sleep(0.4)
        start_response("200 OK", plain)
        return [b"late"]
    if path == "/fork-hold":
        if os.fork() == 0:
            os.setsid()
            with open("forking", "w") as file:
                file.write(str(os.getpid()))
            os.rename("forking", "forked")
        time.sleep(60)
        os._exit(0)
    if path == "/crash":
        os._exit(101)
    if path == "/print":
        print("printed in " + query)
        wait()
    if path == "/hold-one":
        with open("held-" + query, "w"):
            pass
        while not os.path.exists("go-" + query):
            time.sleep(0.001)
        if os.path.exists("steal"):
            # The worker reads the request that was sent ahead, and then violates the protocol.
            front().recv(1 << 18)
            front().send(b"220 smtp.example.com ESMTP")
            time.sleep(60)
        start_response("200 OK", plain)
        if os.path.exists("pieces-" + query):
            return (b"x" * 16384 for _ in range(8))
        return [b"%d" % os.getpid()]
    if path == "/hold":
        with open("held-" + query, "w"):
            pass
        wait()
        start_response("200 OK", plain)
        return [b"%r %d" % (environ["wsgi.multithread"], os.getpid())]
    start_response("200 OK", plain)
    if path.startswith("/caf"):
        lines = ["%s=%s" % (name, ascii(environ[name])) for name in sorted(environ)]
        return [line.encode() + b"\n" for line in lines]
    return [path.encode()]


validated = validator(application)


def create():
    return application


class Namespace:
    application = application
