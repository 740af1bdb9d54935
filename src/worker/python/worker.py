"""The program of a Python worker process.

The front starts it with a socket as descriptor 3, and sends this file over the socket. The process loads the
application and answers one request after another on each lane. A lane is a socket to the front. The frames are
described in src/proto/gate.rs.
"""

import collections
import errno
import gc
import importlib
import io
import marshal
import os
import select
import signal
import socket
import stat
import struct
import sys
import threading
import traceback

# Frames to the front.
READY, COMPLETE, HEAD, CHUNK, END, FILE, FAILED, LOG, FORKED, REAPED, NOT_FORKED, RAISED, PONG = range(13)
# The body of a request for a WebSocket.
WEBSOCKET = (3,)
# A command of the front to the process that forks workers.
REAP = 2
# Commands of the front to a worker that has no request: (REFORK, None) to become that process, and (PING, number).
REFORK, PING = 3, 4
# The lengths of a request and of such a command.
REQUEST, COMMAND = 3, 2
# The length of the command to a process with an event loop to cancel a request that takes too long: (number, None).
ABORT = 2

MAX_FRAME = 160 << 10
# The most descriptors that the front sends in a message.
MAX_DESCRIPTORS = 128
# Maximum number of bytes of a body, a traceback or a log line in a frame.
PIECE = 64 << 10
# The most bytes of a message of a WebSocket, and the most messages that wait for the application.
MAX_MESSAGE = 1 << 20
MAX_WAITING = 16
# How many seconds the client has to close a WebSocket that the application has closed.
CLOSE_TIMEOUT = 1
# How many seconds an application has to end after the `websocket.disconnect` of a worker that ends.
LEAVE_TIMEOUT = 1


class Terminated(SystemExit):
    """The front has stopped this process."""


def hide_termination(unraisable, report=sys.unraisablehook):
    """Reports no Terminated: the front may send the signal while this process already ends, where nothing catches it."""
    if not issubclass(unraisable.exc_type, Terminated):
        report(unraisable)


class ClientLeft(ConnectionError):
    """The client has disconnected, so output is discarded."""


def plain(value):
    """Converts an instance of a subclass of `str` to `str`, the only one that marshal accepts."""
    if isinstance(value, str):
        return str.__add__("", value) if type(value) is not str else value
    raise TypeError("%r is not a string" % (value,))


def receive_message(sock, size, count):
    """Receives a message and its descriptors, which no child of this process inherits. `socket.recv_fds` ignores flags."""
    message, parts, _, _ = sock.recvmsg(size, socket.CMSG_LEN(4 * count), socket.MSG_CMSG_CLOEXEC)
    descriptors = []
    for level, kind, numbers in parts:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors += struct.unpack("%di" % (len(numbers) // 4), numbers[: len(numbers) & ~3])
    return message, descriptors


def receive_descriptors(sock, count):
    """Receives a message with descriptors. The kernel discards those for which this process has no free number."""
    _, descriptors = receive_message(sock, 1, count)
    if len(descriptors) < count:
        for descriptor in descriptors:
            os.close(descriptor)
        raise OSError(errno.EMFILE, "no free file descriptor (raise RLIMIT_NOFILE)")
    return descriptors


class Front:
    """The socket to the front."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = bytearray(MAX_FRAME)
        # A request that was read while another was in progress.
        self.early = None

    def receive_descriptor(self):
        """Receives the descriptor that follows a frame."""
        return receive_descriptors(self.sock, 1)[0]

    def send(self, *frame):
        self.sock.send(marshal.dumps(frame, 2))

    def send_head(self, kind, number, head, *rest):
        status, headers = head
        try:
            frame = marshal.dumps((kind, number, status, headers, *rest), 2)
        except ValueError:
            headers = [(plain(name), plain(value)) for name, value in headers]
            frame = marshal.dumps((kind, number, plain(status), headers, *rest), 2)
        if len(frame) > MAX_FRAME:
            raise ValueError("the head of the response is too large")
        return frame

    def has_left(self, number):
        """Returns whether the client of this request, which is in progress, has disconnected."""
        while self.early is None:
            try:
                frame = self.sock.recv(64, socket.MSG_DONTWAIT | socket.MSG_PEEK)
                if not frame:
                    return True
                if frame[1] != 1:
                    return False  # the next request, since the second byte is the number of items
                # The front may have read that meanwhile, to take a request back. Then this may be a request.
                buffer = bytearray(MAX_FRAME)
                if not self.sock.recv_into(buffer, 0, socket.MSG_DONTWAIT):
                    return True
            except BlockingIOError:
                return False
            frame = marshal.loads(buffer)
            if len(frame) > 1:
                self.early = frame
            # It may belong to an earlier request, which has already ended.
            elif frame[0] == number:
                return True
        return False


class Errors(io.TextIOBase):
    """`wsgi.errors`: sends its lines to the log of the front, with the request."""

    def __init__(self, front):
        self.front = front
        self.number = 0
        self.pending = ""

    def writable(self):
        return True

    def write(self, text):
        self.pending += text
        if "\n" in text or len(self.pending) > PIECE:
            self.flush()
        return len(text)

    def flush(self):
        text, self.pending = self.pending.rstrip("\n"), ""
        if text:
            self.front.send(LOG, self.number, printable(text))


def to_bytes(data):
    """Converts a piece of a body. `bytes` would make zeros of a number."""
    try:
        return bytes(memoryview(data))
    except TypeError:
        raise TypeError("a body must contain bytes, not %r" % type(data)) from None


def describe(error):
    """Returns an exception in one line, and its traceback."""
    try:
        message = "".join(traceback.format_exception_only(type(error), error)).strip()
        return message, "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception:  # no descriptor is free for a module that CPython 3.13 imports here
        message = "%s: %s" % (type(error).__name__, error)
        return message, message


def printable(text):
    return text.encode("utf-8", "replace")[-PIECE:].decode("utf-8", "replace")


class FileInput(io.RawIOBase):
    """The body of a request in a file."""

    def __init__(self, descriptor, offset, length):
        self.descriptor, self.offset, self.end = descriptor, offset, offset + length

    def readable(self):
        return True

    def readinto(self, target):
        room = min(len(target), self.end - self.offset)
        if not room:
            return 0
        # Does not use the position of the descriptor, which the front shares.
        count = os.preadv(self.descriptor, [memoryview(target)[:room]], self.offset)
        if not count:
            raise OSError("the body of the request is shorter than it was")
        self.offset += count
        return count

    def close(self):
        if not self.closed:
            os.close(self.descriptor)
        super().close()


class StreamInput(io.RawIOBase):
    """The body of a request in a pipe, in pieces that are preceded by their length."""

    def __init__(self, descriptor):
        self.descriptor, self.left, self.ended = descriptor, 0, False

    def readable(self):
        return True

    def readinto(self, target):
        if not self.left and not self.ended:
            size = b""
            while len(size) < 4:
                size += self.read_some(4 - len(size))
            (self.left,) = struct.unpack("<I", size)
            self.ended = not self.left
        if self.ended:
            return 0
        piece = self.read_some(min(len(target), self.left))
        self.left -= len(piece)
        target[: len(piece)] = piece
        return len(piece)

    def read_some(self, count):
        piece = os.read(self.descriptor, count)
        if not piece:
            raise ClientLeft("the client has left before it had sent the whole body")
        return piece

    def close(self):
        if not self.closed:
            os.close(self.descriptor)
        super().close()


class FileWrapper:
    """`wsgi.file_wrapper`: the front sends the file itself if possible."""

    def __init__(self, filelike, block_size=8192):
        self.filelike, self.block_size = filelike, block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self):
        return self

    def __next__(self):
        data = self.filelike.read(self.block_size)
        if data:
            return data
        raise StopIteration

    def slice(self):
        """Returns the descriptor, the offset and the remaining length of a file; None if it is not a regular file, or if it
        is read decoded, as that of gzip.open() is."""
        file = self.filelike
        while not isinstance(file, io.IOBase) and hasattr(file, "file"):
            file = file.file  # that of tempfile, or of Django
        if not isinstance(getattr(file, "raw", file), io.FileIO):
            return None
        try:
            descriptor = self.filelike.fileno()
            status = os.fstat(descriptor)
            offset = self.filelike.tell()
        except (AttributeError, OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return descriptor, offset, max(status.st_size - offset, 0)


class Response:
    """The response to one request."""

    __slots__ = ("front", "number", "is_head", "head", "has_begun", "is_ended", "has_left")

    def __init__(self, front, number, is_head):
        self.front, self.number, self.is_head = front, number, is_head
        self.head = None
        self.has_begun = self.is_ended = self.has_left = False

    def start(self, status, headers, exc_info=None):
        """`start_response`."""
        if exc_info:
            try:
                if self.has_begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.head is not None:
            raise AssertionError("start_response was called again without exc_info")
        self.head = (status, headers)
        return self.write

    def write(self, data):
        """Sends a piece of the body. This is the callable that `start_response` returns."""
        if not isinstance(data, bytes):
            raise TypeError("a body must contain bytes, not %r" % type(data))
        front = self.front
        if self.has_begun:
            if front.has_left(self.number):
                self.has_left = True
                raise ClientLeft("the client has left")
        else:
            self.begin()
        if not self.is_head:
            for at in range(0, len(data), PIECE):
                front.send(CHUNK, self.number, data[at : at + PIECE])

    def begin(self):
        if self.head is None:
            raise AssertionError("start_response was not called before the body")
        self.front.sock.send(self.front.send_head(HEAD, self.number, self.head))
        self.has_begun = True

    def content_length(self):
        for name, value in self.head[1]:
            if name.lower() == "content-length":
                return int(value)
        return None

    def answer(self, result):
        """Sends the whole body, or returns a frame with the whole body, which the caller sends."""
        kind = type(result)
        if kind is list or kind is tuple:
            return self.complete(result[0] if len(result) == 1 else b"".join(result))
        # Django's responses have this attribute. An iterator could be a stream.
        if getattr(result, "streaming", None) is False:
            return self.complete(b"".join(result))
        if kind is FileWrapper and not self.has_begun and self.head is not None and not self.is_head:
            found = result.slice()
            if found:
                return self.send_file(*found)
        for data in result:
            if self.has_begun:
                self.write(data)
            elif data:
                length = self.content_length() if self.head else None
                if length == len(data):
                    # This is the whole body. It is sent before the application is asked for more.
                    return self.complete(data)
                if self.is_head:
                    return self.complete(b"")
                self.write(data)
            elif self.front.has_left(self.number):
                return self.complete(b"")
        return self.complete(b"")

    def complete(self, data):
        if type(data) is not bytes:
            data = to_bytes(data)
        if self.head is None:
            raise AssertionError("start_response was not called")
        if self.has_begun or len(data) > PIECE:
            if not self.has_begun and self.content_length() is None:
                self.head = (self.head[0], [*self.head[1], ("Content-Length", str(len(data)))])
            if data or not self.has_begun:
                self.write(data)
            return marshal.dumps((END, self.number), 2)
        return self.front.send_head(COMPLETE, self.number, self.head, data)

    def send_file(self, descriptor, offset, length):
        wanted = self.content_length()
        if wanted is not None:
            length = min(length, wanted)
        frame = self.front.send_head(FILE, self.number, self.head, offset, length)
        # Sent before the application closes the file.
        socket.send_fds(self.front.sock, [frame], [descriptor])
        self.is_ended = True
        return None


class Wsgi:
    """Runs a WSGI application."""

    def __init__(self, front, application, is_threaded):
        self.front, self.application = front, application
        self.errors = Errors(front)
        self.base = {
            "wsgi.version": (1, 0),
            "wsgi.errors": self.errors,
            "wsgi.multithread": is_threaded,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "SERVER_SOFTWARE": "vestibule",
            "GATEWAY_INTERFACE": "CGI/1.1",
        }

    def run(self):
        """Answers requests until the front has closed the socket. Returns the control socket if this process forks
        workers from then on."""
        front, base, errors, buffer = self.front, self.base, self.errors, self.front.buffer
        receive, loads = front.sock.recv_into, marshal.loads
        while front.early or receive(buffer):
            frame = front.early or loads(buffer)
            front.early = None
            if len(frame) != REQUEST:
                if len(frame) == COMMAND:
                    if frame[0] == REFORK:
                        return socket.socket(fileno=front.receive_descriptor())
                    front.send(PONG, frame[1])
                continue  # the client disconnected after the response
            number, environ, body = frame
            environ.update(base)
            errors.number = number
            if type(body) is bytes:
                environ["wsgi.input"] = io.BytesIO(body)
                self.answer(number, environ)
            else:
                self.answer_with_descriptor(number, environ, body)
            del frame, environ, body

    def answer_with_descriptor(self, number, environ, body):
        try:
            stream = self.open(body)
        except OSError as error:
            return self.fail(number, Response(self.front, number, False), error)
        environ["wsgi.input"] = stream
        try:
            self.answer(number, environ)
        finally:
            try:
                stream.close()
            except ValueError:
                pass  # the application has detached the descriptor

    def open(self, body):
        descriptor = self.front.receive_descriptor()
        if body[0] == 1:
            return io.BufferedReader(FileInput(descriptor, body[1], body[2]))
        return io.BufferedReader(StreamInput(descriptor))

    def answer(self, number, environ):
        response = Response(self.front, number, environ["REQUEST_METHOD"] == "HEAD")
        try:
            result = self.application(environ, response.start)
            try:
                frame = response.answer(result)
            finally:
                # Before the response is sent, since the front sends the next request after that.
                if hasattr(result, "close"):
                    result.close()
            if self.errors.pending:
                self.errors.flush()
            if frame is not None:
                self.front.sock.send(frame)
        except Terminated:
            raise
        except BaseException as error:
            self.fail(number, response, error)

    def fail(self, number, response, error):
        """Reports an exception of the application, or that the request ends without a response."""
        if response.has_left and isinstance(error, ClientLeft):
            self.front.send(END, number)
            return
        message, text = describe(error)
        if response.is_ended or response.has_left:
            self.front.send(RAISED, number, printable(text))
            if not response.is_ended:
                self.front.send(END, number)  # RAISED does not end the request
            return
        self.front.send(FAILED, number, printable(message), printable(text))


def serve_wsgi(lanes, application):
    """Answers requests on each lane, with a thread for each if there are several. Returns the control socket if this process
    forks workers from then on."""
    if len(lanes) == 1:
        return serve_wsgi_lane(lanes[0], application, False)
    # Daemon threads, so that a process that is stopped does not wait for a stuck one.
    threads = [
        threading.Thread(target=serve_wsgi_lane, args=(lane, application, True), daemon=True)
        for lane in lanes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve_wsgi_lane(lane, application, is_threaded):
    try:
        front = Front(lane)
        front.send(READY)
        return Wsgi(front, application, is_threaded).run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the front has ended
    finally:
        if is_threaded:
            # The process lives on, so the front must see that nobody answers here.
            lane.shutdown(socket.SHUT_RDWR)


def serve_asgi(lanes, application):
    """Answers requests on each lane, in one event loop."""
    import asyncio

    class Lifespan:
        """The lifespan protocol of ASGI."""

        def __init__(self):
            self.state = {}
            self.to_application = asyncio.Queue()
            self.answered = asyncio.Event()
            self.failure = None
            self.task = asyncio.ensure_future(self.run())

        async def run(self):
            scope = {
                "type": "lifespan",
                "asgi": {"version": "3.0", "spec_version": "2.0"},
                "state": self.state,
            }
            try:
                await application(scope, self.to_application.get, self.send)
            except Exception:
                pass  # the application does not support the protocol, which is not an error
            finally:
                self.answered.set()

        async def send(self, message):
            if message["type"].endswith(".failed"):
                self.failure = message.get("message") or "the application has failed to start"
            self.answered.set()

        async def tell(self, what):
            """Sends a lifespan event to the application, and waits for the reply."""
            self.answered.clear()
            if self.task.done():
                return
            self.to_application.put_nowait({"type": "lifespan." + what})
            await self.answered.wait()

    # For all lanes, since a frame is read completely at once.
    buffer = bytearray(MAX_FRAME)

    class Lane:
        """A socket to the front, for one request at a time."""

        def __init__(self, sock, state):
            self.sock, self.state = sock, state
            self.loop = asyncio.get_running_loop()
            self.exchange = None
            # The requests by their tasks, which may continue after their responses.
            self.tasks = {}
            self.ended = asyncio.Event()
            # The iterators of frames and their files that wait for space in the socket, and the next of the first one. A task
            # that is cancelled meanwhile leaves its frames here.
            self.unsent, self.next = collections.deque(), None
            self.turn = asyncio.Lock()
            self.loop.add_reader(sock, self.read)

        def read(self):
            try:
                count = self.sock.recv_into(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                return self.close()
            frame = marshal.loads(buffer)
            if len(frame) == REQUEST:
                self.begin(frame)
            elif len(frame) == COMMAND and frame[1] is not None:
                self.answer_ping(frame[1])
            elif self.exchange is not None and self.exchange.number == frame[0]:
                self.exchange.leave()
                if len(frame) == ABORT and not self.exchange.is_complete:
                    self.exchange.task.cancel()

        def answer_ping(self, number):
            """Answers a check of the front. If the socket has no space, the front does not read, and will check again."""
            try:
                self.try_send(marshal.dumps((PONG, number), 2), None)
            except OSError:
                pass  # the front has closed the lane

        def begin(self, frame):
            """Begins a request."""
            descriptor = failure = None
            kind = WebSocket if frame[2] == WEBSOCKET else Exchange
            if type(frame[2]) is not bytes:
                try:
                    (descriptor,) = receive_descriptors(self.sock, 1)
                except OSError as error:
                    kind, failure = Exchange, error
            self.exchange = exchange = kind(self, frame, descriptor)
            exchange.task = task = self.loop.create_task(exchange.run() if failure is None else exchange.fail(failure))
            self.tasks[task] = exchange
            task.add_done_callback(self.tasks.pop)

        def close(self):
            """Ends the requests, since the front has closed the socket. A task that continues after its response is not
            cancelled: the front ends this process if that takes too long."""
            if not self.ended.is_set():
                self.loop.remove_reader(self.sock)
                for task, exchange in self.tasks.items():
                    exchange.end(task)
                self.ended.set()

        async def send(self, frame, file=None):
            """Sends a frame, and closes its file."""
            # A frame does not overtake those that wait for space in the socket.
            if self.unsent or not self.try_send(frame, file):
                await self.send_all(((frame, file),))

        async def send_all(self, frames):
            """Sends frames, each with a file or None. If it is cancelled, what it has not sent is sent by the next `flush`."""
            self.unsent.append(iter(frames))
            await self.flush()

        async def flush(self):
            """Waits until all frames are sent."""
            # The event loop has one handler for a socket, so one task waits for it at a time.
            while self.unsent:
                async with self.turn:
                    if not self.send_unsent():
                        await self.wait_writable()

        def send_unsent(self):
            """Returns whether the socket had space for all frames."""
            while self.unsent:
                if self.next is None:
                    self.next = next(self.unsent[0], None)
                if self.next is None:
                    self.unsent.popleft()
                elif self.try_send(*self.next):
                    self.next = None
                else:
                    return False
            return True

        async def wait_writable(self):
            writable = self.loop.create_future()
            self.loop.add_writer(self.sock, lambda: writable.done() or writable.set_result(None))
            try:
                await writable
            finally:
                self.loop.remove_writer(self.sock)

        def try_send(self, frame, file):
            """Returns whether the socket had space."""
            try:
                if file is None:
                    self.sock.send(frame, socket.MSG_DONTWAIT)
                else:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file.fileno()))
                    self.sock.sendmsg([frame], [rights], socket.MSG_DONTWAIT)
                    file.close()
                return True
            except BlockingIOError:
                return False

    class Exchange:
        """A request and its response."""

        def __init__(self, lane, frame, descriptor):
            self.lane = lane
            self.number, self.environ, self.body = frame
            self.descriptor = descriptor
            self.has_left = asyncio.Event()
            self.is_read = self.has_begun = self.is_complete = False
            self.head = None
            self.is_head = self.environ["REQUEST_METHOD"] == "HEAD"
            # What was read of the next piece of a streamed body, and its size, once it is known.
            self.partial, self.size = bytearray(), None
            # Whether the pipe of the body may have data, or is closed.
            self.readable = asyncio.Event()

        async def run(self):
            try:
                await application(self.scope(), self.receive, self.send)
                if not self.is_complete:
                    raise RuntimeError("the application has not completed its response")
            except BaseException as error:
                if not self.is_cancelled_by(error):
                    await self.fail(error)
            finally:
                if self.descriptor is not None:
                    # A task that the application has left behind may wait for the body, and the next descriptor may have the
                    # same number.
                    self.lane.loop.remove_reader(self.descriptor)
                    os.close(self.descriptor)
                    self.descriptor = None
                    self.readable.set()
                await self.flush()

        async def flush(self):
            """Sends what a task that was cancelled has left."""
            try:
                await self.lane.flush()
            except OSError:
                pass  # the front has closed the lane

        def is_cancelled_by(self, error):
            """Returns whether the task was cancelled because its lane is closed. An application may also wait for a task of
            its own that was cancelled, and gets the same exception."""
            return isinstance(error, asyncio.CancelledError) and self.lane.ended.is_set()

        def end(self, task):
            """Ends the task, since the front has closed the lane, unless it has completed its response."""
            if self.is_complete:
                self.has_left.set()
            else:
                task.cancel()

        def leave(self):
            """Records that the client has left."""
            self.has_left.set()

        def complete(self):
            """Lets a task that waits for the client receive `http.disconnect`, since the response was sent."""
            self.has_left.set()

        async def fail(self, error):
            message, text = describe(error)
            if self.is_complete:
                method, path = self.environ["REQUEST_METHOD"], self.environ["RAW_URI"].partition("?")[0]
                frame = (RAISED, self.number, printable("%s %s\n%s" % (method, path, text)))
            elif self.has_left.is_set():
                frame = (END, self.number)
            else:
                frame = (FAILED, self.number, printable(message), printable(text))
            self.is_complete = True
            try:
                await self.lane.send(marshal.dumps(frame, 2))
            except OSError:
                pass  # the front has closed the lane
            self.complete()

        def scope(self):
            environ = self.environ
            headers = []
            for name, value in environ.items():
                if name.startswith("HTTP_"):
                    name = name[5:]
                elif name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                    continue
                name = name.replace("_", "-").lower().encode("latin-1")
                headers.append((name, value.encode("latin-1")))
            repeated = environ.get("vestibule.repeated_fields")
            if repeated:
                lines = repeated.encode("latin-1").split(b"\n")
                names = lines[::2]
                headers = [field for field in headers if field[0] not in names]
                headers += zip(names, lines[1::2])
            root = environ["SCRIPT_NAME"].encode("latin-1").decode("utf-8", "replace")
            path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
            address = environ["REMOTE_ADDR"]
            client = (address, int(environ.get("REMOTE_PORT", 0)))  # a proxy may not name the port
            return {
                "type": "http",
                # With 2.4, frameworks do not listen for a disconnect while they stream: they learn of it when they send.
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": environ["SERVER_PROTOCOL"].partition("/")[2].replace("2.0", "2"),
                "method": environ["REQUEST_METHOD"],
                "scheme": environ["wsgi.url_scheme"],
                "path": root + path,
                "raw_path": environ["RAW_URI"].partition("?")[0].encode("latin-1"),
                "query_string": environ["QUERY_STRING"].encode("latin-1"),
                "root_path": root,
                "headers": headers,
                "client": client if address != "unix:" else None,
                "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
                "state": self.lane.state.copy(),
                "extensions": {"http.response.pathsend": {}},
            }

        async def receive(self):
            if self.is_read or self.is_complete:
                if not self.is_complete:
                    await self.has_left.wait()
                return {"type": "http.disconnect"}
            if self.has_left.is_set():
                return {"type": "http.disconnect"}
            try:
                data, self.is_read = await self.piece()
            except ClientLeft:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": data, "more_body": not self.is_read}

        async def piece(self):
            """Returns the next piece of the request's body, and whether it is the last one."""
            if type(self.body) is bytes:
                return self.body, True
            if self.descriptor is None:
                raise ClientLeft("the request has ended")
            if self.body[0] == 1:
                kind, offset, length = self.body
                data = os.pread(self.descriptor, min(length, PIECE), offset)
                if length and not data:
                    raise OSError("the body of the request is shorter than it was")
                self.body = kind, offset + len(data), length - len(data)
                return data, length == len(data)
            if self.size is None:
                (self.size,) = struct.unpack("<I", await self.read_pipe(4))
            data = await self.read_pipe(self.size) if self.size else b""
            is_last, self.size = not self.size, None
            return data, is_last

        async def read_pipe(self, count):
            """Reads so many bytes. If it is cancelled, the next call continues."""
            os.set_blocking(self.descriptor, False)
            while len(self.partial) < count:
                try:
                    piece = os.read(self.descriptor, count - len(self.partial))
                except BlockingIOError:
                    await self.wait_readable()
                    continue
                if not piece:
                    raise ClientLeft("the client has left before it had sent the whole body")
                self.partial += piece
            data, self.partial = bytes(self.partial), bytearray()
            return data

        async def wait_readable(self):
            self.readable.clear()
            self.lane.loop.add_reader(self.descriptor, self.readable.set)
            try:
                await self.readable.wait()
            finally:
                if self.descriptor is not None:
                    self.lane.loop.remove_reader(self.descriptor)
            if self.descriptor is None:
                raise ClientLeft("the request has ended")

        async def send(self, message):
            if self.is_complete:
                raise RuntimeError("the response is complete")
            if self.has_left.is_set():
                raise ClientLeft("the client has left")
            kind = message["type"]
            if kind == "http.response.start":
                if self.head is not None:
                    raise RuntimeError("the response has begun")
                headers = [
                    (bytes(name), bytes(value))
                    for name, value in message.get("headers", ())
                    if bytes(name).lower() != b"transfer-encoding"  # the specification: servers ignore it
                ]
                self.head = (b"%d" % message["status"], headers)
            elif self.head is None:
                raise RuntimeError("the response has not begun")
            elif kind == "http.response.body":
                await self.send_body(message.get("body", b""), message.get("more_body", False))
            elif kind == "http.response.pathsend" and not self.has_begun:
                await self.send_file(message["path"])
            else:
                raise RuntimeError("a message of the type %r has no place here" % kind)
            if self.is_complete:
                self.complete()

        async def send_body(self, data, has_more):
            number = self.number
            data = b"" if self.is_head else bytes(data)
            if not self.has_begun and not has_more and len(data) <= PIECE:
                frame = self.frame(COMPLETE, data)
                self.is_complete = True
                return await self.lane.send(frame)
            head = None if self.has_begun else self.frame(HEAD)

            def frames():
                if head is not None:
                    yield head, None
                for at in range(0, len(data), PIECE):
                    yield marshal.dumps((CHUNK, number, data[at : at + PIECE]), 2), None
                if not has_more:
                    yield marshal.dumps((END, number), 2), None

            self.has_begun, self.is_complete = True, not has_more
            await self.lane.send_all(frames())

        async def send_file(self, path):
            file = open(path, "rb")  # closed once it is sent
            frame = self.frame(FILE, 0, os.fstat(file.fileno()).st_size)
            self.is_complete = True
            await self.lane.send(frame, file)

        def frame(self, kind, *rest):
            frame = marshal.dumps((kind, self.number, *self.head, *rest), 2)
            if len(frame) > MAX_FRAME:
                raise ValueError("the head of the response is too large")
            return frame

    class Violation(Exception):
        """The client has violated the protocol: the code of the Close frame that says so (RFC 6455 section 7.4.1)."""

    class WebSocket(Exchange):
        """A request for a WebSocket. If the application accepts it, its frames go over a socket of its own, and the lane
        is free for other requests."""

        def __init__(self, lane, frame, descriptor):
            super().__init__(lane, frame, None)
            self.sock = socket.socket(fileno=descriptor)
            self.is_accepted = self.has_closed = False
            self.waiting = asyncio.Queue(MAX_WAITING)
            # What the application receives when the client has left.
            self.left = None
            self.writer = self.pump = None
            self.has_returned = False
            # Cancels the task, once the worker ends.
            self.timer = None

        async def run(self):
            code = 1000
            try:
                self.reader, self.writer = await asyncio.open_unix_connection(sock=self.sock)
                self.waiting.put_nowait({"type": "websocket.connect"})
                await application(self.scope(), self.receive, self.send)
                if not self.is_complete:
                    raise RuntimeError("the application has neither accepted nor closed the WebSocket")
            except BaseException as error:
                if self.is_cancelled_by(error):
                    code = 1012  # the worker ends
                else:
                    code = 1011
                    if not (self.is_complete and self.left and isinstance(error, ClientLeft)):
                        await self.fail(error)
            finally:
                self.has_returned = True
                if self.timer is not None:
                    self.timer.cancel()
                await self.flush()
                if self.writer is None:  # it was cancelled before it had begun
                    self.sock.close()
                else:
                    await self.close(code)

        async def close(self, code):
            try:
                if self.is_accepted and not self.has_closed:
                    self.write_close(code)
                if self.pump is not None:
                    await asyncio.wait((self.pump,), timeout=CLOSE_TIMEOUT)  # until the client has closed it, too
                    self.pump.cancel()
                    await asyncio.wait((self.pump,))  # a stream has one reader at a time
                    # Unread bytes would make the close a reset, which destroys the Close frame.
                    await asyncio.wait_for(self.discard(), CLOSE_TIMEOUT)
            except (OSError, asyncio.TimeoutError):
                pass
            finally:
                self.writer.close()

        def end(self, task):
            """Closes the WebSocket at once. The application receives `websocket.disconnect`, as after a close by the client, and
            is cancelled if it continues for too long."""
            if not self.is_accepted:
                task.cancel()
            elif not self.has_returned:
                if not self.has_closed:
                    self.write_close(1012)
                self.disconnect(1012)
                self.timer = self.lane.loop.call_later(LEAVE_TIMEOUT, task.cancel)

        def leave(self):
            super().leave()
            if not self.is_accepted:
                self.disconnect(1006)

        def complete(self):
            """Lets the application receive `websocket.disconnect` after a refusal."""
            if not self.is_accepted:
                self.disconnect(1006)

        def disconnect(self, code, reason=""):
            """Lets the application receive `websocket.disconnect`, once."""
            if self.left is None:
                self.left = {"type": "websocket.disconnect", "code": code, "reason": reason}
                # In a full queue, it follows the last message without an entry.
                if not self.waiting.full():
                    self.waiting.put_nowait(self.left)

        async def discard(self):
            while await self.reader.read(PIECE):
                pass

        def scope(self):
            scope = super().scope()
            protocols = self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "")
            scope.update(
                type="websocket",
                scheme="wss" if scope["scheme"] == "https" else "ws",
                subprotocols=[name.strip() for name in protocols.split(",") if name.strip()],
                extensions={"websocket.http.response": {}},
            )
            del scope["method"]
            return scope

        async def receive(self):
            if self.left is not None and self.waiting.empty():
                return self.left
            return await self.waiting.get()

        async def send(self, message):
            kind = message["type"]
            if not self.is_accepted:
                return await self.answer(kind, message)
            if self.left is not None:
                raise ClientLeft("the client has left")
            if self.has_closed:
                raise RuntimeError("the WebSocket is closed")
            if kind == "websocket.send":
                text, data = message.get("text"), message.get("bytes")
                if text is not None:
                    self.write(1, text.encode())
                elif data is not None:
                    self.write(2, bytes(data))
                else:
                    raise ValueError("websocket.send has neither text nor bytes")
            elif kind == "websocket.close":
                self.write_close(message.get("code", 1000), message.get("reason") or "")
                # A client that does not close it, too, has left.
                if self.pump is not None:
                    self.lane.loop.call_later(CLOSE_TIMEOUT, self.pump.cancel)
                return
            else:
                raise RuntimeError("a message of the type %r has no place here" % kind)
            await self.writer.drain()

        async def answer(self, kind, message):
            """Answers the handshake."""
            if kind == "websocket.accept":
                headers = list(message.get("headers") or ())
                if message.get("subprotocol"):
                    headers.append((b"sec-websocket-protocol", message["subprotocol"].encode("latin-1")))
                await super().send({"type": "http.response.start", "status": 200, "headers": headers})
                self.is_accepted = True
                await super().send({"type": "http.response.body"})
                self.pump = self.lane.loop.create_task(self.read_frames())
            elif kind == "websocket.close":
                await super().send({"type": "http.response.start", "status": 403})
                await super().send({"type": "http.response.body"})
            elif kind == "websocket.http.response.start":
                if message["status"] < 300:
                    raise ValueError("a WebSocket is accepted by websocket.accept")
                await super().send({**message, "type": "http.response.start"})
            elif kind == "websocket.http.response.body":
                await super().send({**message, "type": "http.response.body"})
            else:
                raise RuntimeError("a message of the type %r has no place here" % kind)

        def write(self, opcode, data):
            size = len(data)
            if size < 126:
                head = struct.pack("!BB", 128 | opcode, size)
            elif size < 1 << 16:
                head = struct.pack("!BBH", 128 | opcode, 126, size)
            else:
                head = struct.pack("!BBQ", 128 | opcode, 127, size)
            self.writer.write(head + data)

        def write_close(self, code, reason=""):
            self.has_closed = True
            reason = reason.encode()[:123].decode(errors="ignore")  # not within a character
            self.write(8, struct.pack("!H", code) + reason.encode())
            self.writer.write_eof()

        async def read_frames(self):
            """Reads messages until the client has left."""
            code, reason = 1006, ""
            try:
                while True:
                    opcode, data = await self.read_message()
                    if opcode == 8:
                        code, reason = self.read_close(data)
                        if not self.has_closed:
                            self.write_close(1000 if code == 1005 else code)
                        break
                    message = {"type": "websocket.receive"}
                    try:
                        message.update({"text": data.decode()} if opcode == 1 else {"bytes": data})
                    except UnicodeDecodeError:
                        raise Violation(1007)
                    if self.left is None and not self.has_closed:
                        await self.waiting.put(message)
            except Violation as violation:
                (code,) = violation.args
                if not self.has_closed:
                    self.write_close(code)
            except (OSError, EOFError):
                pass  # without a Close frame
            finally:
                self.disconnect(code, reason)

        async def read_message(self):
            """The next message or Close frame. Pings are answered."""
            kind, whole, size = None, bytearray(), 0
            while True:
                first, second = await self.reader.readexactly(2)
                opcode, length = first & 15, second & 127
                is_last = first & 128
                # Nothing was negotiated, and clients mask (RFC 6455 sections 5.1 and 5.2).
                if first & 0x70 or not second & 128 or opcode not in (0, 1, 2, 8, 9, 10):
                    raise Violation(1002)
                if opcode > 7 and (length > 125 or not is_last):
                    raise Violation(1002)
                if opcode < 8 and (opcode == 0) == (kind is None):
                    raise Violation(1002)
                if length > 125:
                    form = "!H" if length == 126 else "!Q"
                    (length,) = struct.unpack(form, await self.reader.readexactly(struct.calcsize(form)))
                if size + length > MAX_MESSAGE:
                    raise Violation(1009)
                mask = await self.reader.readexactly(4)
                data = unmask(await self.reader.readexactly(length), mask)
                if opcode == 8:
                    return opcode, data
                if opcode == 9:
                    if not self.has_closed:
                        self.write(10, data)
                        await self.writer.drain()
                elif opcode < 8:
                    kind, size = kind or opcode, size + length
                    whole += data  # not a list: fragments may be empty
                    if is_last:
                        return kind, bytes(whole)

        def read_close(self, data):
            """The code and the reason of a Close frame (RFC 6455 section 7.4)."""
            if not data:
                return 1005, ""
            code = int.from_bytes(data[:2], "big")
            is_valid = len(data) > 1 and (1000 <= code <= 1014 and code not in (1004, 1005, 1006) or 3000 <= code < 5000)
            try:
                reason = data[2:].decode()
            except UnicodeDecodeError:
                raise Violation(1007)
            if not is_valid:
                raise Violation(1002)
            return code, reason

    def unmask(data, mask):
        size = len(data)
        key = (mask * (size // 4 + 1))[:size]
        return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")

    async def serve():
        lifespan = Lifespan()
        await lifespan.tell("startup")
        if lifespan.failure is not None:
            print(lifespan.failure, file=sys.stderr)
            sys.exit(3)
        running = [Lane(lane, lifespan.state) for lane in lanes]
        # The signal is ignored: the requests end with their lanes, and other tasks may continue then.
        handle_termination([])
        for lane in lanes:
            lane.send(marshal.dumps((READY,), 2))
        for lane in running:
            await lane.ended.wait()
        tasks = [task for lane in running for task in lane.tasks]
        await asyncio.gather(*tasks, return_exceptions=True)
        await lifespan.tell("shutdown")
        lifespan.task.cancel()

    asyncio.run(serve())


def load(target):
    """Returns the object with a name like `mysite.wsgi:application`, or the result of `factory()`."""
    module, _, path = target.partition(":")
    path = path or "application"
    found = importlib.import_module(module)
    for name in path.removesuffix("()").split("."):
        found = getattr(found, name)
    return found() if path.endswith("()") else found


def check(application, kind, target):
    """Raises a TypeError for an object that is not an application, or certainly one of the other interface. A request would
    fail in the same way, and the start says what to change."""
    import inspect  # most applications have loaded it

    if not callable(application):
        raise TypeError("%s is no application: %r is not callable" % (target, type(application).__name__))
    is_async = any(map(inspect.iscoroutinefunction, (application, getattr(application, "__call__", None))))
    if kind == "wsgi" and is_async:
        raise TypeError("%s is an application of ASGI, not of WSGI" % target)
    if kind == "asgi" and not is_async and takes(application, 2) and not takes(application, 3):
        raise TypeError("%s is an application of WSGI, not of ASGI" % target)


def takes(function, count):
    """Returns whether it can be called with so many arguments, or its arguments are not known."""
    import inspect

    try:
        signature = inspect.signature(function)
    except Exception:  # written in C, or an annotation cannot be evaluated, which Python 3.14 does here
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def handle_termination(sockets):
    """Lets SIGTERM end this process only if the front has closed these sockets, as it does before it sends the signal.
    Others send it while the front still completes requests: systemd to all processes of a service."""
    pid = os.getpid()

    def terminate(signum, stack):
        # A process that the application has forked ends at once.
        if os.getpid() != pid or sockets and all(map(has_ended, sockets)):
            raise Terminated(0)

    signal.signal(signal.SIGTERM, terminate)


def has_ended(sock):
    """Returns whether the front has closed this socket, even if it has sent frames before."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


def fork_workers(control):
    """Executes the commands of the front to fork and reap workers. Returns in each worker with its socket, and
    returns None when the front has closed the control socket."""
    handle_termination([control])
    control.send(marshal.dumps((READY,), 2))
    while True:
        order, descriptors = receive_message(control, 64, 3)
        if not order:
            return None
        order = marshal.loads(order)
        if order[0] == REAP:
            try:
                _, status = os.waitpid(order[1], 0)
            except ChildProcessError as error:  # the application ignores SIGCHLD, or has waited for it
                control.send(marshal.dumps((NOT_FORKED, str(error)), 2))
                continue
            code = os.waitstatus_to_exitcode(status)
            control.send(marshal.dumps((REAPED, code < 0, abs(code)), 2))
            continue
        pid = pidfd = None
        try:
            if len(descriptors) < 3:
                raise OSError(errno.EMFILE, "no free file descriptor (raise RLIMIT_NOFILE)")
            pid = os.fork()
            if pid:
                pidfd = os.pidfd_open(pid)
        except OSError as error:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            control.send(marshal.dumps((NOT_FORKED, str(error)), 2))
        if pid == 0:
            os.setpgid(0, 0)
            control.detach()
            for target, descriptor in zip((3, 1, 2), descriptors):
                os.dup2(descriptor, target, inheritable=target != 3)
            for descriptor in descriptors:
                os.close(descriptor)
            return socket.socket(fileno=3)
        if pidfd is not None:
            try:
                os.setpgid(pid, pid)  # parent and child both call it, since either may run first
            except OSError:
                pass
            socket.send_fds(control, [marshal.dumps((FORKED,), 2)], [pidfd])
            os.close(pidfd)
        for descriptor in descriptors:
            os.close(descriptor)


def connections():
    """The connected stream sockets of this process, by the name of the socket: their descriptors and peers. Empty if a
    sandbox hides /proc; then the process is not copied, since its threads are not known either."""
    found = {}
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for number in numbers:
        try:
            name = os.readlink("/proc/self/fd/" + number)
            if name.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(number))) as sock:
                    if sock.type == socket.SOCK_STREAM:
                        found[name] = "descriptor %s to %r" % (number, sock.getpeername())
        except OSError:
            pass  # it is not connected, or it was the descriptor of the list
    return found


def reason_not_to_fork(before):
    """Returns why this process must not be copied, or None. `before` are the connections that it has inherited."""
    try:
        threads = os.listdir("/proc/self/task")
    except OSError as error:
        return "its threads and connections are not known: " + str(error)
    if len(threads) > 1:
        names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        return "it has threads, which a copy would not have: " + (", ".join(names) or "of a library")
    opened = [peer for name, peer in connections().items() if name not in before]
    if opened:
        return "it has connections, which a copy must not share: " + ", ".join(opened)
    return None


def prepare_refork(hook, before):
    """Closes what must not be copied. Returns the reason why that is not possible, or None."""
    try:
        if hook is not None:
            hook()
        for module, name in (("django.db", "connections.close_all"), ("django.core.cache", "close_caches")):
            found = sys.modules.get(module)
            if found is not None:
                for part in name.split("."):
                    found = getattr(found, part)
                found()
        return reason_not_to_fork(before)
    except Exception as error:
        traceback.print_exc()
        return "".join(traceback.format_exception_only(type(error), error)).strip()


def freeze():
    """Makes the loaded objects permanent: the collector need not visit them, and must not write to pages that processes
    share."""
    gc.collect()
    gc.freeze()


def main(sock):
    kind, target, mode, lanes, refork = sys.argv[1:6]
    sys.argv[1:] = []
    for name in ("LISTEN_FDS", "LISTEN_PID"):
        os.environ.pop(name, None)
    sock.set_inheritable(False)
    sys.unraisablehook = hide_termination
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    before = connections() if mode == "zygote" else None
    application = load(target)
    check(application, kind, target)
    hook = load(refork) if refork not in ("", "-") else None
    freeze()
    control = None
    if mode == "zygote":
        if threading.active_count() > 1:
            print("the application started threads while it was loaded; its workers do not have them", file=sys.stderr)
        opened = [peer for name, peer in connections().items() if name not in before]
        if opened:
            text = "the application opened connections while it was loaded, which all its workers share: "
            print(text + ", ".join(opened), file=sys.stderr)
        control = sock
    while True:
        if control is not None:
            try:
                sock = fork_workers(control)
            except (BrokenPipeError, ConnectionResetError):
                return
            if sock is None:
                return
        before = connections() if refork else None
        control = serve(sock, kind, application, int(lanes))
        if control is None:
            return
        # The worker becomes the process that forks others. As in a zygote, no received descriptor has this number.
        os.dup2(control.fileno(), 3, inheritable=False)
        control.close()
        control = socket.socket(fileno=3)
        handle_termination([control])
        reason = prepare_refork(hook, before)
        if reason is not None:
            control.send(marshal.dumps((NOT_FORKED, printable(reason)[:1024]), 2))
            return
        freeze()


def serve(sock, kind, application, lanes):
    """Answers requests. Returns the control socket if this process forks workers from then on."""
    sockets = [sock, *receive_sockets(sock, lanes - 1)]
    try:
        if kind == "asgi":
            return serve_asgi(sockets, application)
        handle_termination(sockets)
        return serve_wsgi(sockets, application)
    finally:
        for sock in sockets:
            sock.close()


def receive_sockets(sock, count):
    """Receives further sockets, which the front sends over the first."""
    sockets = []
    while len(sockets) < count:
        some = receive_descriptors(sock, min(count - len(sockets), MAX_DESCRIPTORS))
        sockets += [socket.socket(fileno=descriptor) for descriptor in some]
    return sockets
