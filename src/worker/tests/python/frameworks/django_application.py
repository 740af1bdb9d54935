import asyncio

import django
from django.conf import settings

settings.configure(SECRET_KEY="of a test", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402


async def item(request, number):
    await asyncio.sleep(0)
    return HttpResponse("%d %s" % (number, request.GET["q"]))


urlpatterns = [path("items/<int:number>/", item)]
application = get_asgi_application()
