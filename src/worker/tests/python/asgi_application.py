"""An ASGI application whose path says what it does."""

import asyncio
import itertools
import os
import resource
import time

with open("loaded", "a") as loaded:
    loaded.write("once\n")
while os.path.exists("hold-load"):
    time.sleep(0.001)
waiting = []


def take_descriptors():
    """Leaves this process without free descriptors."""
    lowest = next(fd for fd in itertools.count() if not os.path.lexists("/proc/self/fd/%d" % fd))
    maximum = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, maximum))


def note(name, text):
    with open(name + ".new", "w") as file:
        file.write(text)
    os.rename(name + ".new", name)


async def lifespan(scope, receive, send):
    while True:
        message = await receive()
        what = message["type"].partition(".")[2]
        with open("lifespan", "a") as file:
            file.write(what + " ")
        scope["state"]["started"] = True
        await send({"type": "lifespan.%s.complete" % what})
        if what == "shutdown":
            return


async def broken(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


class Undescribed:
    """An application whose signature cannot be read, as one with annotations that Python 3.14 cannot evaluate."""

    @property
    def __signature__(self):
        raise NameError("Scope")

    def __call__(self, scope, receive, send):
        return application(scope, receive, send)


undescribed = Undescribed()


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    path = scope["path"]

    async def start():
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def body(data, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if path == "/raise":
        raise KeyError("name")
    if path == "/incomplete":
        return
    if path == "/wait-cancelled":
        task = asyncio.ensure_future(asyncio.sleep(3600))
        task.cancel()
        await task
    if path == "/until-left":
        await receive()
        note("waiting", "")
        message = await receive()
        return note("left", message["type"])
    if path == "/forever":
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            note("cancelled", "")
            raise
    if path == "/forever-shielded":
        task = asyncio.ensure_future(asyncio.sleep(3600))
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                pass
    if path == "/disconnected":
        message = await receive()
        while message["type"] == "http.request":
            message = await receive()
        return note("left", message["type"])
    if path == "/large-head":
        headers = [(b"x", b"y" * 120_000)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        return await body(b"x" * 60_000)
    if path == "/relayed":
        headers = [(b"X-A", b"1"), (b"Transfer-Encoding", b"chunked")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        return await body(b"relayed")
    if path == "/take-descriptors":
        take_descriptors()
    if path == "/barrier":
        waiting.append(asyncio.get_running_loop().create_future())
        if len(waiting) == int(scope["query_string"]):
            for future in waiting:
                future.set_result(None)
        await waiting[len(waiting) - 1]
    await start()
    if path == "/barrier":
        return await body(b"%d at a time" % len(waiting))
    if path == "/raise-late":
        await body(b"complete")
        raise KeyError("late")
    if path == "/two-tasks":

        async def many(piece):
            for _ in range(64):
                await body(piece * 65_536, True)

        await asyncio.gather(many(b"a"), many(b"b"))
        return await body(b"")
    if path == "/forever-after-head":
        await body(b"begun", True)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            note("cancelled", "")
            raise
    if path == "/cancelled-send":
        # It fills the socket, and is cancelled while it waits.
        task = asyncio.ensure_future(body(b"x" * 4_000_000))
        await asyncio.sleep(0)
        task.cancel()
        return await asyncio.wait([task])
    if path == "/inheritable":
        numbers = [int(number) for number in os.listdir("/proc/self/fd")]
        found = []
        for number in numbers:
            try:
                if number > 2 and os.get_inheritable(number):
                    found.append(number)
            except OSError:
                pass  # that of the list
        return await body(b"%d of %d: %r" % (len(found), len(numbers), found))
    if path == "/pid":
        return await body(b"%d" % os.getpid())
    if path == "/leave-reader":
        waiting.append(asyncio.ensure_future(receive()))
        await asyncio.sleep(0)  # it waits for the body from here on
        return await body(b"answered")
    if path == "/violate-late":
        await body(b"answered")
        os.write(3, b"garbage")  # the socket of the only lane
        return
    if path == "/background":
        await body(b"answered")
        try:
            while not os.path.exists("go"):
                await asyncio.sleep(0.001)
            note("background", "complete")
        except asyncio.CancelledError:
            note("background", "cancelled")
            raise
        return
    if path == "/hold":
        note("held", str(os.getpid()))
        while not os.path.exists("go"):
            await asyncio.sleep(0.001)
        return await body(b"held")
    if path == "/block":
        note("held", str(os.getpid()))
        while not os.path.exists("go"):
            time.sleep(0.001)  # without an await: the event loop is blocked
        return await body(b"blocked")
    if path == "/block-later":
        await body(b"answered")
        note("blocked", str(os.getpid()))
        while not os.path.exists("go"):
            time.sleep(0.001)
        return
    if path == "/echo":
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            if message["body"]:
                await body(message["body"], True)
        return await body(b"")
    if path == "/impatient":
        content, more = b"", True
        note("waiting", "")
        while more:
            task = asyncio.ensure_future(receive())
            await asyncio.sleep(0)  # it reads what there is
            if not task.done():
                task.cancel()
            try:
                message = await task
            except asyncio.CancelledError:
                continue
            content, more = content + message["body"], message["more_body"]
        return await body(content)
    if path == "/watch":

        async def watch():
            while (await receive())["type"] != "http.disconnect":
                pass
            note("watched", "")

        task = asyncio.ensure_future(watch())
        await body(b"answered")
        return await task
    if path == "/path":
        note("sent", "file")
        return await send({"type": "http.response.pathsend", "path": os.path.abspath("sent")})
    if path == "/ticks":
        await body(b"tick", True)
        message = await receive()
        while message["type"] == "http.request":
            message = await receive()
        return note("left", message["type"])
    if "/caf" in path:
        return await body("\n".join("%s=%s" % (k, ascii(scope[k])) for k in sorted(scope)).encode())
    await body(path.encode())
