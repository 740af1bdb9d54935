"""The application of an ASGI worker in a live test, with the settings of that test."""
import json
import os

from django.conf import settings

settings.configure(**json.loads(os.environ["VESTIBULE_LIVE_SETTINGS"]))

from mysite.asgi import application  # noqa: E402, F401
