"""The application that an ASGI server runs, with the WebSocket of the chat."""
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
http = get_asgi_application()  # before the imports below, which need the settings

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from channels.sessions import SessionMiddlewareStack  # noqa: E402
from django.urls import path  # noqa: E402

from guests.chat import Chat  # noqa: E402

# A page of another site could open a WebSocket with the visitor's cookies, so its origin is checked.
websocket = AllowedHostsOriginValidator(SessionMiddlewareStack(URLRouter([path("chat/", Chat.as_asgi())])))
application = ProtocolTypeRouter({"http": http, "websocket": websocket})
