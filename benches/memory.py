"""Memory of a Django site under several servers: the proportional set size (PSS) of all their processes.

    python -m venv venv && venv/bin/pip install -r examples/django/requirements.txt gunicorn granian
    cargo build --release --example django
    venv/bin/python benches/memory.py target/release/examples/django

PSS counts a page of memory that n processes share as an n-th for each (proc_pid_smaps(5)). It is read after each worker has
answered about `--requests` requests of the guest book's page, which has a session, a form and a template. A server that is not
installed is left out.
"""
import argparse
import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "examples" / "django"

# How many seconds a start may take, and how long processes must stay the same until they are measured.
PATIENCE, REST = 60, 2


def commands(args, address):
    """The servers, with their names."""
    host, port = address
    front = [args.front, "--listen", f"{host}:{port}", "--workers", str(args.workers)]
    python = [sys.executable, "-m"]
    yield "vestibule", front
    # Each worker answers the other half after the refork.
    yield "vestibule --refork-after", [*front, "--refork-after", str(max(args.requests // 2, 1))]
    if importlib.util.find_spec("gunicorn"):
        server = [*python, "gunicorn", "--bind", f"{host}:{port}", "--workers", str(args.workers), "mysite.wsgi"]
        yield "gunicorn --preload", [*server, "--preload"]
        yield "gunicorn", server
    if importlib.util.find_spec("granian"):
        server = ["granian", "--interface", "wsgi", "--host", host, "--port", str(port), "--workers", str(args.workers)]
        yield "granian", [*python, *server, "mysite.wsgi:application"]


def descendants(pid):
    """The ids of the processes that a process has started, directly or not."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(child)]
    return found


def pss(pid):
    """The proportional set size of a process in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no Pss")


def get(address):
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    connection.request("GET", "/")
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"the site answers {response.status}")


def wait_ready(process, address):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            return get(address)
        except ConnectionError:
            time.sleep(0.1)
    raise RuntimeError(f"{process.args} did not start")


def load(address, clients, requests):
    def client():
        for _ in range(requests):
            get(address)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_settled(pid):
    """Waits until no process starts or ends any more."""
    known, since = None, time.monotonic()
    while time.monotonic() - since < REST:
        now = descendants(pid)
        if now != known:
            known, since = now, time.monotonic()
        time.sleep(0.1)
    return known


def measure(command, address, args, env):
    """Runs a server. Returns the memory of its first process, and that of the others and their number."""
    process = subprocess.Popen(command, cwd=PROJECT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_ready(process, address)
        load(address, args.workers, args.requests)
        others = wait_settled(process.pid)
        return pss(process.pid), sum(map(pss, others)), len(others)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("front", type=os.path.abspath, help="the example `django`, built")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=100, help="for each worker (100)")
    args = parser.parse_args()
    print(f"{args.workers} workers, {args.requests} requests each, Python {sys.version.split()[0]}; MiB (PSS)")
    print(f"{'':26}{'first process':>14}{'others':>14}{'sum':>8}")
    for name, _ in commands(args, ("", 0)):
        with tempfile.TemporaryDirectory(prefix="vestibule-memory-") as data, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = probe.getsockname()
            probe.close()
            env = os.environ | {"DJANGO_DATA": data, "VIRTUAL_ENV": sys.prefix, "PYTHONDONTWRITEBYTECODE": "1"}
            migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
            subprocess.run(migrate, cwd=PROJECT, env=env, check=True)
            first, others, number = measure(dict(commands(args, address))[name], address, args, env)
        print(f"{name:26}{first:14.1f}{f'{number} x, {others:.1f}':>14}{first + others:8.1f}", flush=True)


if __name__ == "__main__":
    main()
