"""A headless Chromium, driven by the DevTools protocol over a pipe: no driver, no WebSocket."""
import json
import os
import select
import subprocess
import time
from pathlib import Path

# Long enough for a busy machine; a test that succeeds does not wait for it.
PATIENCE = 60


class Browser:
    """One page of a browser with a profile of its own."""

    def __init__(self, profile):
        from_browser, browser_writes = os.pipe()
        browser_reads, to_browser = os.pipe()
        # Chromium has the pipe at descriptors 3 and 4. They are taken here, so that `Popen` does not use them.
        fillers = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
        reads, writes = os.dup(browser_reads), os.dup(browser_writes)

        def place():
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        self.process = subprocess.Popen(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-sync", "--disable-component-update",
                "--disable-dev-shm-usage", f"--user-data-dir={profile}", "--remote-debugging-pipe",
            ],
            preexec_fn=place, pass_fds=(3, 4), stderr=subprocess.DEVNULL,
        )
        for descriptor in (browser_reads, browser_writes, reads, writes, *fillers):
            os.close(descriptor)
        self.reader, self.writer = from_browser, to_browser
        self.buffer, self.events, self.session, self.number = b"", [], None, 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def close(self):
        """Ends the browser."""
        os.close(self.writer)
        os.close(self.reader)
        self.process.terminate()
        self.process.wait(PATIENCE)

    def call(self, method, **params):
        """Calls a method of the protocol; events that come before its result are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer.get("method"))

    def _read(self):
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            if not select.select([self.reader], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self.reader, 1 << 16)
            if not chunk:
                raise EOFError("the browser has ended")
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _wait_for_load(self):
        while "Page.loadEventFired" not in self.events:
            self.events.append(self._read().get("method"))

    def open(self, url):
        """Opens a page and waits until it has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        self._wait_for_load()

    def evaluate(self, script):
        """The value of an expression in the page; a promise is awaited."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def fill(self, selector, value):
        """Sets the value of a field."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(value)}")

    def choose_file(self, selector, path):
        """Chooses a file for a field, as a person does in the dialogue."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(Path(path).resolve())])

    def click(self, selector):
        """Clicks what leads to another page, and waits until that has loaded."""
        self.events.clear()
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        self._wait_for_load()
