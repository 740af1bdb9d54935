"""The program itself: its doctor, the virtual environment that it makes, its log, and `--reload`."""
import http.client
import os
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from queue import Queue
from unittest import TestCase

from .live import LISTENS, needs

# How many seconds a step may take.
PATIENCE = 60

# A site with Django in one file.
SITE = """
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure({settings})
urlpatterns = [path("", lambda request: HttpResponse("hello"))]
application = get_wsgi_application()
"""
SETTINGS = {
    "ROOT_URLCONF": "__name__",
    "ALLOWED_HOSTS": "['127.0.0.1']",
    "INSTALLED_APPS": "['django.contrib.staticfiles']",
    "MIDDLEWARE": "['django.middleware.common.CommonMiddleware']",
    "STATIC_URL": "'/static/'",
    "STATIC_ROOT": "'collected'",
}

# A page without Django. It is text in memory, as Django's pages are.
PAGE = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    return [b"<p>{text}</p>"]
"""

# A response that does not end.
ENDLESS = """
import time

def pieces():
    yield b"first"
    time.sleep(3600)

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return pieces()
"""

FAILING = """
def application(environ, start_response):
    environ["wsgi.errors"].write("said to wsgi.errors\\n")
    raise ValueError("on purpose")
"""


class Project(TestCase):
    def setUp(self):
        self.dir = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="vestibule-program-")))

    def write(self, text, name="site.py"):
        """Replaces a file in one step, so that no half of it is loaded."""
        new = self.dir / (name + ".new")
        new.write_text(text)
        new.replace(self.dir / name)

    def command(self, *options):
        return [os.environ["VESTIBULE_DJANGO"], "--listen", "127.0.0.1:0", *options, str(self.dir), "app:application"]

    def environment(self, venv=sys.prefix):
        env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "DJANGO_SETTINGS_MODULE")}
        env |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "", "NO_COLOR": "1"}
        return env | {"VIRTUAL_ENV": venv} if venv else env

    def check(self, venv=sys.prefix, env=None):
        """Runs `--check`; returns its status and its lines."""
        done = subprocess.run(
            self.command("--check"), env=self.environment(venv) | (env or {}), capture_output=True, text=True, timeout=PATIENCE
        )
        return done.returncode, done.stdout

    def write_site(self, **changes):
        settings = ", ".join(f"{name}={value}" for name, value in (SETTINGS | changes).items())
        self.write(SITE.replace("{settings}", settings), "app.py")


@needs("VESTIBULE_DJANGO, which names the program", "VESTIBULE_DJANGO" in os.environ)
class DoctorTest(Project):
    def assert_finds(self, problem, remedy, **changes):
        self.write_site(**changes)
        status, lines = self.check()
        self.assertEqual(status, 1, lines)
        self.assertIn(f"FAIL  {problem}", lines)
        self.assertIn(f"-> {remedy}", lines)

    def test_site_without_faults_passes(self):
        (self.dir / "collected").mkdir()
        self.write_site()
        status, lines = self.check()
        self.assertEqual(status, 0, lines)
        self.assertNotIn("FAIL", lines)
        self.assertIn("ok    a worker starts, and answers / with 200 OK", lines)

    def test_module_that_cannot_be_imported_is_found(self):
        status, lines = self.check()
        self.assertEqual(status, 1, lines)
        self.assertIn("FAIL  cannot import app:application", lines)
        self.assertIn("No module named 'app'", lines)
        self.assertIn("-> the module must be importable from", lines)

    def test_absent_static_root_is_found(self):
        self.assert_finds(f"STATIC_ROOT {self.dir.resolve()}/collected does not exist", "run `manage.py collectstatic`")

    def test_static_root_that_is_not_set_is_found(self):
        self.assert_finds("STATIC_ROOT or STATIC_URL is not set", "set STATIC_ROOT to a directory", STATIC_ROOT="None")

    def test_static_files_of_another_server_are_no_fault(self):
        self.write_site(STATIC_URL="'https://cdn.example.org/static/'", STATIC_ROOT="None")
        status, lines = self.check()
        self.assertEqual(status, 0, lines)
        self.assertIn("ok    static files are at https://cdn.example.org/static/, which is not served here", lines)

    def test_host_that_is_not_allowed_is_found(self):
        (self.dir / "collected").mkdir()
        problem = "ALLOWED_HOSTS has no 127.0.0.1: requests are answered with 400"
        self.assert_finds(problem, "add the names by which the site is reached", ALLOWED_HOSTS="['example.org']")
        # The worker has the same to say.
        self.assertIn("FAIL  a worker starts, and answers / with 400 Bad Request", self.check()[1])

    def test_worker_that_fails_is_found(self):
        (self.dir / "collected").mkdir()
        problem = "internal error: the application raised ModuleNotFoundError: No module named 'missing'"
        self.assert_finds(problem, "the log above has the output of the worker", ROOT_URLCONF="'missing'")

    def test_missing_interpreter_is_found(self):
        self.write(PAGE, "app.py")
        status, lines = self.check(venv=f"{self.dir}/none")
        self.assertEqual(status, 1, lines)
        self.assertIn(f"FAIL  {self.dir}/none/bin/python does not exist", lines)


@needs("VESTIBULE_DJANGO, which names the program", "VESTIBULE_DJANGO" in os.environ)
class EnvironmentTest(Project):
    def test_first_start_makes_the_virtual_environment_and_the_next_one_uses_it(self):
        self.write(PAGE, "app.py")
        status, lines = self.check(venv=None)
        self.assertEqual(status, 0, lines)
        self.assertIn("ok    interpreter python3, from PATH", lines)

        # Without a package nothing is downloaded. What an interrupted start has left is removed.
        self.write("# nothing\n", "requirements.txt")
        venv = self.dir.resolve() / ".venv"
        venv.mkdir()
        (venv / ".incomplete").touch()
        (venv / "left").touch()
        status, lines = self.check(venv=None)
        self.assertEqual(status, 0, lines)
        self.assertIn(f"ok    interpreter {venv}/bin/python, from {venv}, just created", lines)
        self.assertEqual([(venv / name).exists() for name in (".incomplete", "left")], [False, False])

        status, lines = self.check(venv=None)
        self.assertEqual(status, 0, lines)
        self.assertIn(f"ok    interpreter {venv}/bin/python, from {venv}\n", lines)
        # VIRTUAL_ENV has precedence.
        self.assertIn(f"ok    interpreter {sys.prefix}/bin/python, from VIRTUAL_ENV", self.check()[1])


class Running(Project):
    def start(self, *options):
        """Starts the program; returns its URL. Its lines of the log are in a queue."""
        command = self.command(*options, "--workers", "1")
        process = subprocess.Popen(command, env=self.environment(), stderr=subprocess.PIPE, text=True)
        self.lines = Queue()

        def read():
            for line in process.stderr:
                self.lines.put(line)
            process.stderr.close()

        reader = threading.Thread(target=read)
        reader.start()
        self.addCleanup(reader.join, PATIENCE)
        self.addCleanup(process.wait, PATIENCE)
        self.addCleanup(process.terminate)
        return f"http://127.0.0.1:{LISTENS.search(self.line('Open http'))[1]}"

    def line(self, text):
        """Waits for a line of the log with this text."""
        while text not in (line := self.lines.get(timeout=PATIENCE)):
            pass
        return line


@needs("VESTIBULE_DJANGO, which names the program", "VESTIBULE_DJANGO" in os.environ)
class LogTest(Running):
    def test_log_has_tracebacks_and_errors_of_the_application(self):
        self.write(FAILING, "app.py")
        url = self.start()
        with self.assertRaises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(url, timeout=PATIENCE)
        with raised.exception as response:
            self.assertEqual(response.status, 500)
            self.assertNotIn(b"on purpose", response.read())
        self.assertIn('stream="errors"', self.line("said to wsgi.errors"))
        self.line("an application raised an exception")
        self.line("Traceback (most recent call last)")
        self.line("app.py")
        self.line("ValueError: on purpose")
        self.line("request_id=")


@needs("VESTIBULE_DJANGO, which names the program", "VESTIBULE_DJANGO" in os.environ)
class ReloadTest(Running):
    def test_changed_file_replaces_workers_and_refreshes_pages_unless_it_is_broken(self):
        self.write(PAGE.replace("{text}", "first"), "app.py")
        url = self.start("--reload")

        def get(path):
            with urllib.request.urlopen(url + path, timeout=PATIENCE) as response:
                return response.read().decode()

        script = '<script src="/__vestibule/refresh.js" defer></script>'
        self.assertEqual(get("/"), f"<p>first</p>{script}")
        self.assertIn("/__vestibule/events", get("/__vestibule/refresh.js"))
        events = self.enterContext(urllib.request.urlopen(url + "/__vestibule/events", timeout=PATIENCE))
        self.assertEqual(events.readline(), b": waiting\n")

        # Workers without the code continue; the pages are not refreshed.
        self.write("raise ValueError('half of a thought')\n", "app.py")
        self.line("app.py has changed: reloading")
        self.line("half of a thought")
        self.assertEqual(get("/"), f"<p>first</p>{script}")

        self.write(PAGE.replace("{text}", "second"), "app.py")
        self.line("app.py has changed: reloading")
        while (line := events.readline()) == b"\n":
            pass
        self.assertEqual(line, b"event: reload\n")
        self.assertEqual(get("/"), f"<p>second</p>{script}")

    def test_endless_response_of_replaced_code_is_ended_before_the_request_timeout(self):
        self.write(ENDLESS, "app.py")
        url = self.start("--reload")
        # The request timeout is 30 s.
        response = self.enterContext(urllib.request.urlopen(url, timeout=20))
        self.assertEqual(response.read(5), b"first")
        self.write(PAGE, "app.py")
        self.line("app.py has changed: reloading")
        with self.assertRaises((http.client.IncompleteRead, ConnectionError)):
            response.read()
