"""uvicorn --workers: processes started by spawn, which each import the application."""

import multiprocessing
import signal
import socket
import subprocess
import sys
import time
import urllib.request

APPLICATION = """
import multiprocessing, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    text = f"{os.getpid()} {type(multiprocessing.Lock()).__module__}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})
"""


def test_workers(tmp_path):
    (tmp_path / "application.py").write_text(APPLICATION)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    module_here = type(multiprocessing.Lock()).__module__
    way = ["-m", "fastmp", "run"] if module_here.startswith("fastmp") else []
    command = [sys.executable, *way, "-m", "uvicorn", "application:app", "--workers=2", f"--port={port}"]
    with open(tmp_path / "log", "w") as log, subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log) as process:
        try:
            pids, modules, deadline = set(), set(), time.monotonic() + 60
            while len(pids) < 2:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                        pid, module = answer.read().decode().split()
                    pids.add(pid)
                    modules.add(module)
                except OSError:
                    time.sleep(0.05)
            assert str(process.pid) not in pids
            assert modules == {module_here}
            process.send_signal(signal.SIGINT)
            process.wait(30)
        finally:
            process.kill()
