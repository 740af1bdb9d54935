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


app = Starlette(routes=[Route("/items/{number:int}", item)], lifespan=lifespan)
