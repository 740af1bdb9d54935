"""Tests that Django publishes with its source and that use its test client, with a client that sends to the front.

They are changed and imported by `published`. A test that looks into the process of the view, for example at an exception
that it has raised, cannot run: the views are in other processes.

Those of `forms_tests` and `sessions_tests`, and all others of `csrf_tests`, call forms, sessions and middleware directly and
send no request, so a server makes no difference for them. `test_site` has forms, sessions and tokens of CSRF through the front.
"""
import http.client
from unittest import skip
from urllib.parse import quote

from csrf_tests.tests import CsrfInErrorHandlingViewsTests
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse
from django.test import LiveServerTestCase, SimpleTestCase
from file_uploads.tests import FileUploadTests
from handlers.tests import HandlerRequestTests

from .published import PublicFront

# How many seconds a response may take.
PATIENCE = 30
IN_PROCESS = "it looks into the process of the view"


class FrontHandler:
    """What `Client` needs of a handler: a callable that answers an environ."""

    def __init__(self, address):
        self.address = address

    def __call__(self, environ):
        headers = {
            name[5:].replace("_", "-"): value
            for name, value in environ.items()
            if name.startswith("HTTP_") and name != "HTTP_HOST"
        }
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ.get("CONTENT_TYPE"):
            headers["Content-Type"] = environ["CONTENT_TYPE"]
        path, query = quote(environ["PATH_INFO"].encode("latin-1")), environ.get("QUERY_STRING")
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        try:
            connection.request(environ["REQUEST_METHOD"], f"{path}?{query}" if query else path, body or None, headers)
            answer = connection.getresponse()
            response = HttpResponse(answer.read(), status=answer.status, reason=answer.reason)
        finally:
            connection.close()
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                response.cookies.load(value)
            else:
                response.headers[name] = value
        response.wsgi_request = WSGIRequest(environ)
        return response


class ThroughFront(LiveServerTestCase):
    """The base of these tests, in place of `TestCase`, whose transaction the workers would not see."""

    server_thread_class = PublicFront

    def setUp(self):
        super().setUp()
        thread = self.server_thread
        self.client.handler = FrontHandler((thread.host, thread.port))


# Each class, and its tests that cannot run.
CLASSES = {
    FileUploadTests: {
        "test_broken_custom_upload_handler": IN_PROCESS,
        "test_file_error_blocking": IN_PROCESS,
        "test_fileuploads_closed_at_request_end": IN_PROCESS,
        "test_filename_traversal_upload": "the directory of its upload handler is another one in each process",
        "test_upload_interrupted_temporary_file_handler": IN_PROCESS,
    },
    HandlerRequestTests: {
        "test_async_streaming": IN_PROCESS,
        "test_environ_path_info_type": "it sends no request",
        "test_handle_accepts_httpstatus_enum_value": "it sends no request",
        "test_invalid_urls": "the front refuses a target that does not begin with a slash",
        "test_middleware_returns_none": IN_PROCESS,
        "test_no_response": IN_PROCESS,
    },
    CsrfInErrorHandlingViewsTests: {},
}


def prepare():
    """Changes the classes; returns their names for the test runner."""
    for found, without in CLASSES.items():
        bases = (ThroughFront if issubclass(base, SimpleTestCase) else base for base in found.__bases__)
        found.__bases__ = tuple(bases)
        for test, reason in without.items():
            setattr(found, test, skip(reason)(getattr(found, test)))
    return [f"{found.__module__}.{found.__qualname__}" for found in CLASSES]
