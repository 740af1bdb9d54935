"""Imports a WSGI application as a worker does, and prints the settings that the front needs, one a line."""
import importlib
import os
import platform
import sys

module, _, name = sys.argv[1].partition(":")
sys.path.insert(0, os.getcwd())
application = importlib.import_module(module)
for part in (name or "application").split("."):
    application = getattr(application, part)
if not callable(application):
    sys.exit(f"{sys.argv[1]} is not callable: it is {application!r}")


def say(key, value):
    print(f"vestibule {key}={value}")


say("python", platform.python_version())
if "django" in sys.modules:
    import django
    from django.conf import settings

    say("django", django.get_version())
    if settings.configured:
        say("debug", int(bool(settings.DEBUG)))
        engines = [database.get("ENGINE", "") for database in settings.DATABASES.values()]
        say("databases", int(any(engine not in ("", "django.db.backends.dummy") for engine in engines)))
        say("allowed_hosts", ",".join(settings.ALLOWED_HOSTS))
        for key in ("STATIC_URL", "STATIC_ROOT", "MEDIA_URL", "MEDIA_ROOT"):
            value = getattr(settings, key, None)
            say(key.lower(), "" if value is None else os.path.abspath(value) if key.endswith("ROOT") and value else value)
        say("staticfiles", int("django.contrib.staticfiles" in settings.INSTALLED_APPS))
