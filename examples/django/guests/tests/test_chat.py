"""The chat through the front: WebSockets of a worker of ASGI."""
import json
import os
from importlib.util import find_spec

from django.test import LiveServerTestCase

from .live import FrontThread, needs
from .test_site import PATIENCE, Client


class AsgiFront(FrontThread):
    # One worker: the channel layer is in its memory.
    server_args = ["--asgi", "--workers", "1"]
    application = "guests.tests.live_asgi:application"


@needs("the program and websockets", "VESTIBULE_DJANGO" in os.environ, find_spec("websockets"))
class ChatTest(LiveServerTestCase):
    server_thread_class = AsgiFront

    def connect(self, path="/chat/", **headers):
        from websockets.sync.client import connect

        url = self.live_server_url.replace("http", "ws") + path
        headers.setdefault("Origin", self.live_server_url)
        return self.enterContext(connect(url, additional_headers=headers, open_timeout=PATIENCE))

    def test_message_reaches_all_visitors_with_the_name_of_its_session(self):
        ann = Client(self.live_server_url)
        ann.post("/name/", {"name": "Ann"})
        self.assertIn(b"guests/chat", ann.get("/chat/")[2])
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in ann.cookies)
        first, second = self.connect(Cookie=cookies), self.connect()
        for sender, name, text in [(first, "Ann", "Hello"), (second, "Somebody", "<b>Ünïcode</b>")]:
            sender.send(text)
            for socket in (first, second):
                self.assertEqual(json.loads(socket.recv(PATIENCE)), {"name": name, "text": text})

    def test_page_of_another_site_and_path_without_a_chat_are_refused(self):
        from websockets.exceptions import InvalidStatus

        port = int(self.live_server_url.rpartition(":")[2])
        for origin in ["http://other.example", f"http://localhost:{port % 65535 + 1}", "http://[", "null"]:
            self.assertRefused(origin, InvalidStatus, Origin=origin)
        self.assertRefused("path", InvalidStatus, path="/other/")
        log = "".join(self.server_thread.log)
        self.assertNotIn("Traceback", log)

    def assertRefused(self, case, error, **request):
        with self.subTest(case), self.assertRaises(error) as refused:
            self.connect(**request)
        self.assertEqual(refused.exception.response.status_code, 403)
