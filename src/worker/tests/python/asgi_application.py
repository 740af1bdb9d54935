"""An ASGI application whose path says what it does."""

import asyncio
import os

waiting = []


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
    if path == "/barrier":
        waiting.append(asyncio.get_running_loop().create_future())
        if len(waiting) == 8:
            for future in waiting:
                future.set_result(None)
        await waiting[len(waiting) - 1]
    await start()
    if path == "/barrier":
        return await body(b"%d at a time" % len(waiting))
    if path == "/raise-late":
        await body(b"complete")
        raise KeyError("late")
    if path == "/echo":
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            if message["body"]:
                await body(message["body"], True)
        return await body(b"")
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
