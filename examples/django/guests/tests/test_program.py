"""The program itself: its doctor, the virtual environment that it makes, its log, and `--reload`."""
import http.client
import os
import signal
import sqlite3
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


# A daemon that says where it runs, and that it ends.
JOBS = """
import os, signal, sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit("jobs end"))
print("jobs {text}", os.getcwd(), sys.prefix, sys.argv[1:], "pid=%d" % os.getpid())
while True:
    signal.pause()
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
        """Starts the program; returns its URL."""
        return self.run_program(self.command(*options, "--workers", "1"), self.environment())

    def run_program(self, command, env):
        """Starts a program; returns its URL. Its lines of the log are in a queue."""
        self.process = process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        self.lines, ports = Queue(), Queue()

        def read():
            for line in process.stderr:
                self.lines.put(line)
                if found := LISTENS.search(line):
                    ports.put(found[1])
            self.lines.put(None)
            ports.put(None)
            process.stderr.close()

        reader = threading.Thread(target=read)
        reader.start()
        self.addCleanup(reader.join, PATIENCE)
        self.addCleanup(process.wait, PATIENCE)
        self.addCleanup(process.terminate)
        port = ports.get(timeout=PATIENCE)
        self.assertIsNotNone(port, "the program did not start")
        return f"http://127.0.0.1:{port}"

    def line(self, text):
        """Waits for a line of the log with this text."""
        while (line := self.lines.get(timeout=PATIENCE)) is not None:
            if text in line:
                return line
        raise AssertionError(f"the log ends without {text!r}")

    def lines_until(self, text):
        """Waits for a line of the log with this text; returns those before it that are about the jobs."""
        lines = []
        while text not in (line := self.lines.get(timeout=PATIENCE)):
            if "jobs" in line:
                lines.append(line)
        return lines


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


@needs("VESTIBULE_DJANGO, which names the program", "VESTIBULE_DJANGO" in os.environ)
class DaemonTest(Running):
    def write_code(self, text):
        self.write(PAGE.replace("{text}", text), "app.py")
        self.write(JOBS.replace("{text}", text), "jobs.py")

    def get(self, url):
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return response.read().decode()

    def started(self, text):
        """Waits for the first line of the daemon, checks it, and returns the process id."""
        line = self.line(f"jobs {text}")
        self.assertIn(f"{self.dir.resolve()} {sys.prefix} ['two words']", line)
        return int(line.rsplit("pid=", 1)[1].split()[0])

    def assert_gone(self, pid):
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)

    def test_daemon_is_restarted_by_hangup_and_stopped_with_the_site(self):
        self.write_code("first")
        url = self.start("--daemon", "python jobs.py 'two words'")
        self.assertIn("python jobs.py 'two words'", self.line("daemon started"))
        first = self.started("first")
        self.assertEqual(self.get(url), "<p>first</p>")

        self.write_code("second")
        self.process.send_signal(signal.SIGHUP)
        self.line("jobs end")
        second = self.started("second")
        self.assertEqual(self.get(url), "<p>second</p>")
        self.assert_gone(first)

        self.process.terminate()
        self.line("jobs end")
        self.assertEqual(self.process.wait(PATIENCE), 0)
        self.assert_gone(second)

    def test_daemon_that_is_killed_is_started_again(self):
        self.write_code("first")
        self.start("--daemon", "python jobs.py 'two words'")
        os.kill(self.started("first"), signal.SIGKILL)
        self.started("first")

    def test_daemon_is_restarted_with_workers_unless_the_new_code_is_broken(self):
        self.write_code("first")
        self.start("--reload", "--daemon", "python jobs.py 'two words'")
        self.started("first")

        self.write("raise ValueError('half of a thought')\n", "app.py")
        self.assertEqual(self.lines_until("half of a thought"), [])
        self.write(PAGE.replace("{text}", "second"), "app.py")
        self.assertEqual(self.lines_until("jobs end"), [])
        self.started("first")

    def test_housekeeping_of_the_guest_book_deletes_expired_sessions(self):
        program = [os.environ["VESTIBULE_DJANGO"], "--listen", "127.0.0.1:0", "--workers", "1"]
        env = self.environment() | {"DJANGO_DATA": str(self.dir)}
        url = self.run_program([*program, "--daemon", "python manage.py housekeeping"], env)
        self.line("expired sessions deleted: 0")
        self.assertIn("You have been here 1 time.", self.get(url))
        database = sqlite3.connect(self.dir / "db.sqlite3", timeout=PATIENCE)
        self.addCleanup(database.close)
        with database:
            database.execute("UPDATE django_session SET expire_date = '2000-01-01 00:00:00'")
        self.process.send_signal(signal.SIGHUP)
        self.line("expired sessions deleted: 1")
        self.assertEqual(database.execute("SELECT count(*) FROM django_session").fetchone(), (0,))
