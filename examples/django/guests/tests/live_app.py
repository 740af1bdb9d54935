"""The application of a worker in a live test, with the settings of that test."""
import json
import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

settings.configure(**json.loads(os.environ["VESTIBULE_LIVE_SETTINGS"]))
application = get_wsgi_application()
