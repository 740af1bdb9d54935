"""Django's live tests through the front: `FrontThread` takes the place of Django's own server.

    class MyTest(LiveServerTestCase):
        server_thread_class = FrontThread

It starts the program that `VESTIBULE_DJANGO` names, with workers that have the settings of the test. They are
other processes, so the test database must be a file or a server.
"""
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from unittest import skipUnless

from django.conf import global_settings, settings

PROJECT = Path(__file__).resolve().parent.parent.parent
# The program prints it when it listens.
LISTENS = re.compile(r"Open http://\S+:(\d+)/")


def needs(reason, *found):
    """Skips a test that lacks one of these. With CI=true it runs and fails."""
    return skipUnless(all(found) or os.environ.get("CI") == "true", f"needs {reason}")


def changed_settings():
    """The settings that are not Django's defaults, as the test has them now."""
    names = [name for name in dir(settings) if name.isupper()]
    values = {name: getattr(settings, name) for name in names}
    return {
        name: value for name, value in values.items() if value != getattr(global_settings, name, None)
    }


class FrontThread:
    """What `LiveServerTestCase` needs of its server: a port, an error or none, and an end."""

    server_args = ["--workers", "2"]
    application = "guests.tests.live_app:application"

    def __init__(self, host, static_handler, connections_override=None, port=0):
        self.host, self.port = host, port
        self.connections_override = connections_override or {}
        self.is_ready, self.error = threading.Event(), None
        self.daemon, self.log, self.process = True, [], None

    def start(self):
        """Starts the program and waits until it listens or has ended."""
        try:
            self._start()
        except Exception as error:  # reported by the test case
            self.error = error
        self.is_ready.set()

    def _start(self):
        env = os.environ | {
            "VESTIBULE_LIVE_SETTINGS": json.dumps(changed_settings(), default=str),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "VIRTUAL_ENV": sys.prefix,
        }
        command = [os.environ["VESTIBULE_DJANGO"], "--listen", f"{self.host}:{self.port}"]
        command += [*self.server_args, str(PROJECT), self.application]
        self.process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            self.log.append(line)
            if found := LISTENS.search(line):
                self.port = int(found[1])
                break
        else:
            raise RuntimeError(f"the front did not start: {''.join(self.log)}")
        threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True).start()

    def terminate(self, timeout=30):
        """Ends the program, with its workers, and waits for its end."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            finally:
                self.process.kill()
