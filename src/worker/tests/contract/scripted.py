"""The application of a test of worker pools. The path of a request says what it does."""

import os
import select
import socket
import sys

control = socket.socket(socket.AF_UNIX)
control.connect(os.environ["CONTROL"])


def line():
    text = b""
    while not text.endswith(b"\n"):
        try:
            text += control.recv(1)
        except SystemExit:
            pass  # it is stuck, and does not end because it is asked to
    return text.decode().rstrip("\n")


def say(what, name):
    control.sendall(("%s %s\n" % (what, name)).encode())


def wait(name):
    say("wait", name)
    assert line() == "go " + name


instance, build = line().split(" ")
if build == "Fail":
    sys.exit("no database")
if build == "Panic":
    os._exit(101)
if build == "Hold":
    wait("/build")


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
    say("entered", path)
    if path == "/panic":
        os._exit(101)
    if path.startswith("/stream") or path in ("/endless", "/break"):
        start_response("200 OK", [("Content-Length", "6")] if path == "/stream" else [])
        return stream(path)
    if path.startswith("/hold"):
        wait(path)
    start_response("200 OK", [])
    return [("%s %s" % (path, instance)).encode()]
