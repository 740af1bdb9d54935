"""Runs tests that Django publishes with its source, through the front: those of a live server, and those of file uploads,
streamed responses and tokens of CSRF that send requests.

    pip download --no-deps --no-binary django django==5.2.9    # and unpack it
    VESTIBULE_DJANGO=target/debug/examples/django python -m guests.tests.published django-5.2.9
"""
import importlib
import sys
import tempfile
from pathlib import Path
from unittest import skip

import django
from django.conf import settings
from django.test import LiveServerTestCase
from django.test.utils import get_runner

from .live import FrontThread

# Those of `servers.tests` that are about the server, and not about the thread that Django runs it in.
TESTS = ["LiveServerViews", "LiveServerDatabase", "LiveServerThreadedTests", "LiveServerAddress"]

# What Django's development server cannot do, and the front does.
OTHERWISE = {
    "test_closes_connection_without_content_length": "a chunked response leaves the connection open",
    "test_keep_alive_on_connection_with_content_length": "a client that asks for the end of the connection gets it",
    "test_keep_alive_connection_clears_previous_request_data": "the same",
}


class PublicFront(FrontThread):
    """The tests read uploads as everybody."""

    server_args = ["--workers", "2", "--public-media"]


def main(source):
    """Returns how many tests have failed."""
    sys.path.insert(0, str(Path(source, "tests").resolve()))
    with tempfile.TemporaryDirectory(prefix="vestibule-published-") as directory:
        name = f"{directory}/test.sqlite3"
        settings.configure(
            SECRET_KEY="for tests only",
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "TEST": {"NAME": name}}},
            DEFAULT_AUTO_FIELD="django.db.models.AutoField",
            INSTALLED_APPS=[
                "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "servers",
                "file_uploads",
            ],
            MIDDLEWARE=[
                "django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.common.CommonMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
            ],
            MIGRATION_MODULES={"auth": None, "contenttypes": None, "sessions": None},
            ROOT_URLCONF="servers.urls",
            TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        )
        django.setup()
        LiveServerTestCase.server_thread_class = PublicFront
        views = importlib.import_module("servers.tests").LiveServerViews
        for test, reason in OTHERWISE.items():
            setattr(views, test, skip(reason)(getattr(views, test)))
        runner = get_runner(settings)(interactive=False)
        clients = importlib.import_module("guests.tests.published_clients").prepare()
        return runner.run_tests([*(f"servers.tests.{test}" for test in TESTS), *clients])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
