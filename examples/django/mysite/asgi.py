"""The application that an ASGI server runs, with the WebSocket of the chat."""
import logging
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
http = get_asgi_application()  # before the import below, which needs the settings

try:
    from .sockets import websocket
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "channels":
        raise
    logging.getLogger(__name__).warning("no WebSockets: install channels, which requirements.txt names")

    async def websocket(scope, receive, send):
        await send({"type": "websocket.close"})


async def application(scope, receive, send):
    await (websocket if scope["type"] == "websocket" else http)(scope, receive, send)
