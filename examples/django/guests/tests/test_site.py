"""The site through the front: forms, sessions, CSRF, uploads, streams, static and private files."""
import http.cookiejar
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import uuid

from django.core.management import call_command
from django.test import LiveServerTestCase, override_settings

from guests.models import Entry

from .live import FrontThread, needs

PATIENCE = 60
DATA = tempfile.TemporaryDirectory(prefix="vestibule-django-")


class Client:
    """A browser without scripts: cookies and redirects."""

    def __init__(self, base):
        self.base = base
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def get(self, path, **headers):
        return self._open(urllib.request.Request(self.base + path, headers=headers))

    def post(self, path, fields=None, files=None, token=True):
        """Posts a form with the token of the page before; `files` has names and contents."""
        fields = dict(fields or {})
        if token:
            page = self.get("/")[2].decode()
            fields["csrfmiddlewaretoken"] = re.search(r'csrfmiddlewaretoken" value="(\w+)"', page)[1]
        if files is None:
            data, kind = urllib.parse.urlencode(fields).encode(), "application/x-www-form-urlencoded"
        else:
            boundary = uuid.uuid4().hex
            parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
            parts += [(f'name="{name}"; filename="{file}"', content) for name, (file, content) in files.items()]
            data = b"".join(
                f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
                for head, content in parts
            )
            data, kind = data + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
        return self._open(urllib.request.Request(self.base + path, data, {"Content-Type": kind}))

    def _open(self, request):
        try:
            response = self.opener.open(request, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return response.status, response.headers, response.read()


@needs("VESTIBULE_DJANGO, which names the program", "VESTIBULE_DJANGO" in os.environ)
@override_settings(MEDIA_ROOT=f"{DATA.name}/uploads", STATIC_ROOT=f"{DATA.name}/static")
class SiteTest(LiveServerTestCase):
    """One front for all tests of the class, with two workers."""

    server_thread_class = FrontThread

    @classmethod
    def _start_server_thread(cls):
        call_command("collectstatic", interactive=False, verbosity=0)
        super()._start_server_thread()

    def setUp(self):
        self.client = Client(self.live_server_url)

    def test_session_and_form_remember_the_visitor(self):
        self.assertIn(b"been here 1 time.", self.client.get("/")[2])
        status, _, page = self.client.post("/name/", {"name": "Ann <&>"})
        self.assertEqual(status, 200)
        self.assertIn(b"times, Ann &lt;&amp;&gt;.", page)
        self.client.post("/", {"message": "Good tea & scones"})
        self.assertEqual(Entry.objects.get().name, "Ann <&>")
        self.assertIn(b"been here 1 time.", Client(self.live_server_url).get("/")[2])

    def test_form_without_its_token_is_refused(self):
        status, _, page = self.client.post("/", {"message": "x"}, token=False)
        self.assertEqual((status, Entry.objects.count()), (403, 0))
        self.assertIn(b"CSRF", page)

    def test_form_with_errors_is_shown_again(self):
        status, _, page = self.client.post("/", {"message": "x" * 501})
        self.assertEqual(status, 422)
        self.assertIn(b"at most 500 characters", page)

    def test_upload_comes_back_to_its_owner_and_to_nobody_else(self):
        content = os.urandom(3 << 20)
        status, _, page = self.client.post("/", {"message": "see"}, {"attachment": ("å b.bin", content)})
        self.assertEqual(status, 200)
        path = re.search(r'href="(/files/[^"]+)"', page.decode())[1]
        status, headers, body = self.client.get(path)
        self.assertEqual((status, body == content), (200, True))
        self.assertIn("attachment", headers["Content-Disposition"])
        self.assertNotIn("X-Accel-Redirect", headers)
        status, headers, body = self.client.get(path, Range="bytes=10-19")
        self.assertEqual((status, body), (206, content[10:20]), "the front sends it")
        self.assertEqual(Client(self.live_server_url).get(path)[0], 404)
        self.assertEqual(self.client.get("/private/" + path.removeprefix("/files/"))[0], 404)

    def test_upload_above_the_limit_is_an_error_of_the_form(self):
        status, _, page = self.client.post("/", {"message": "x"}, {"attachment": ("a", bytes((10 << 20) + 1))})
        self.assertEqual(status, 422)
        self.assertIn(b"10 MiB at most", page)

    def test_streamed_table_is_whole(self):
        Entry.objects.bulk_create(Entry(name=f"n{n}", message="m" * 100) for n in range(5000))
        status, headers, body = self.client.get("/entries.csv")
        lines = body.decode().splitlines()
        self.assertEqual((status, len(lines), lines[0]), (200, 5001, "name,message"))
        self.assertEqual(lines[-1], f"n0,{'m' * 100}")

    def test_static_files_are_those_of_all_applications(self):
        for path in ("/static/guests/book.css", "/static/admin/css/base.css"):
            status, headers, _ = self.client.get(path)
            self.assertEqual((status, headers["Content-Type"]), (200, "text/css; charset=utf-8"))
        self.assertEqual(self.client.get("/static/guests/../../db.sqlite3")[0], 400)

    def test_client_cannot_say_who_it_is(self):
        _, _, body = self.client.get("/whoami/", **{"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"})
        self.assertIn(b'"forwarded_for": "127.0.0.1"', body)
        self.assertIn(b'"secure": false', body)
