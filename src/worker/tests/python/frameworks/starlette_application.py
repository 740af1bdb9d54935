import asyncio
import contextlib

from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route


@contextlib.asynccontextmanager
async def lifespan(app):
    yield {"state": "ready"}


async def item(request):
    async def pieces():
        yield "%s %s %s" % (request.path_params["number"], request.query_params["q"], request.state.state)
        for piece in (" one", " two"):
            yield piece

    return StreamingResponse(pieces())


async def silent(request):
    async def pieces():
        yield "first"
        await asyncio.sleep(3600)

    return StreamingResponse(pieces())


routes = [Route("/items/{number:int}", item), Route("/silent", silent)]
app = Starlette(routes=routes, lifespan=lifespan)
