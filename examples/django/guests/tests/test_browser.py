"""The admin in a real browser."""
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import LiveServerTestCase, override_settings

from .browser import Browser
from .live import FrontThread, needs

DATA = tempfile.TemporaryDirectory(prefix="vestibule-browser-")


def png(width, height):
    """A picture of one colour."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = zlib.compress((b"\0" + b"\x20\x80\x40" * width) * height)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@needs("the program and chromium", "VESTIBULE_DJANGO" in os.environ, shutil.which("chromium"))
@override_settings(MEDIA_ROOT=f"{DATA.name}/uploads", STATIC_ROOT=f"{DATA.name}/static")
class AdminTest(LiveServerTestCase):
    """Somebody of the staff works with the admin."""

    server_thread_class = FrontThread

    @classmethod
    def _start_server_thread(cls):
        call_command("collectstatic", interactive=False, verbosity=0)
        super()._start_server_thread()

    def test_staff_logs_in_uploads_a_picture_and_sees_it(self):
        User.objects.create_superuser("ann", password="correct horse")
        picture = Path(DATA.name, "house.png")
        picture.write_bytes(png(64, 48))
        browser = Browser(f"{DATA.name}/profile")
        self.addCleanup(browser.close)

        browser.open(f"{self.live_server_url}/admin/")
        browser.fill("#id_username", "ann")
        browser.fill("#id_password", "correct horse")
        browser.click("input[type=submit]")
        self.assertIn("Site administration", browser.evaluate("document.title"))
        # The admin's style sheet is one of the static files.
        self.assertNotEqual(browser.evaluate("getComputedStyle(document.querySelector('#header')).display"), "block")

        browser.open(f"{self.live_server_url}/admin/guests/entry/add/")
        browser.fill("#id_name", "Ann")
        browser.fill("#id_message", "our house")
        browser.choose_file("#id_attachment", picture)
        browser.click("input[name=_continue]")
        self.assertIn("was added successfully", browser.evaluate("document.body.innerText"))

        browser.click("p.file-upload a")
        self.assertIn("/files/", browser.evaluate("location.pathname"))
        size = browser.evaluate("[document.images[0].naturalWidth, document.images[0].naturalHeight]")
        self.assertEqual(size, [64, 48])
