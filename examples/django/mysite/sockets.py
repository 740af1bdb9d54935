"""The application for WebSockets: the chat, for pages of this site."""
from channels.sessions import SessionMiddlewareStack
from django.conf import settings
from django.http.request import split_domain_port, validate_host

from guests.chat import Chat

chat = SessionMiddlewareStack(Chat.as_asgi())


def is_own(headers):
    """Returns whether the page is of this site. Another site's could open a WebSocket with the visitor's cookies.

    The origin has the port, which ALLOWED_HOSTS does not know: another port of this host is another site."""
    host, origin, scheme = (
        headers.get(name, b"").decode("latin1").lower() for name in (b"host", b"origin", b"x-forwarded-proto")
    )
    if origin in settings.CSRF_TRUSTED_ORIGINS:
        return True
    is_allowed = validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS)
    return is_allowed and origin == f"{'https' if scheme == 'https' else 'http'}://{host}"


async def websocket(scope, receive, send):
    if scope["path"] == "/chat/" and is_own(dict(scope["headers"])):
        await chat(scope, receive, send)
    else:
        await send({"type": "websocket.close"})  # 403
