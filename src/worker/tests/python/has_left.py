"""Tests `Front.has_left` of the worker's program, whose path is the argument, without a front."""

import marshal
import socket
import sys

# The classes before `Errors`; the rest begins to work when it is loaded.
text = open(sys.argv[1]).read()
program = {}
exec(compile(text[: text.index("class Errors")], "worker.py", "exec"), program)
front_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Socket:
    """The worker's end. The front reads a message from it after the next `recv`, if `steals`."""

    steals = False

    def recv(self, *arguments):
        message = worker_end.recv(*arguments)
        if self.steals:
            self.steals = False
            worker_end.recv(64)
        return message

    def recv_into(self, *arguments):
        return worker_end.recv_into(*arguments)


def disconnect(number):
    front_end.send(marshal.dumps((number,), 2))


def request(number):
    front_end.send(marshal.dumps((number, {"A": "x" * 500}, b""), 2))


sock = Socket()
front = program["Front"](sock)
assert not front.has_left(1)
disconnect(1)
assert front.has_left(1)
disconnect(1)
disconnect(2)
assert front.has_left(2), "the first one was for an earlier request"

# The front takes the disconnect back in between.
disconnect(1)
request(3)
sock.steals = True
assert not front.has_left(2)
assert front.early[0] == 3 and len(front.early[1]["A"]) == 500
front.early = None
disconnect(2)
sock.steals = True
assert not front.has_left(2) and front.early is None

request(4)
assert not front.has_left(2) and front.early is None, "it is left in the socket"
front_end.close()
worker_end.recv(4096)
assert front.has_left(2)
