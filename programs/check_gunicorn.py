"""gunicorn forks its workers before they serve: an application whose workers share fastmp's objects."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

APPLICATION = """
import multiprocessing, os
lock, hits, queue = multiprocessing.Lock(), multiprocessing.Value("i", 0), multiprocessing.Queue()

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/die":
        lock.acquire()
        os.kill(os.getpid(), 9)
    with lock:
        hits.value += 1
        queue.put(os.getpid())
    text = f"{hits.value} {os.getpid()} {type(lock).__module__} {queue.qsize()}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
"""
MODULE = type(multiprocessing.Lock()).__module__


@pytest.fixture
def server(tmp_path):
    (tmp_path / "application.py").write_text(APPLICATION)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    way = ["-m", "fastmp", "run"] if MODULE.startswith("fastmp") else []
    arguments = ["-m", "gunicorn", "application:app", "--workers=3", "--preload", f"--bind=127.0.0.1:{port}"]
    with (
        open(tmp_path / "log", "w") as log,
        subprocess.Popen([sys.executable, *way, *arguments], cwd=tmp_path, stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    get(port)
                    break
                except OSError:
                    assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                    time.sleep(0.05)
            yield process, port
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            finally:
                process.kill()


def get(port, path="/"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode().split()


def test_workers_share_what_was_made_before_they_were_forked(server):
    _, port = server
    first = int(get(port)[0])
    seen = [get(port) for _ in range(40)]
    assert [int(hits) for hits, *_ in seen] == list(range(first + 1, first + 41))
    assert {module for _, _, module, _ in seen} == {MODULE}
    assert [int(queued) for *_, queued in seen][-1] > 0


def test_it_reloads_and_ends(server):
    process, port = server
    before = {get(port)[1] for _ in range(10)}
    process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 30
    while {get(port)[1] for _ in range(10)} & before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.mark.skipif(MODULE.startswith("multiprocessing"), reason="the stdlib's lock stays held for ever")
def test_a_worker_killed_with_the_lock(server):
    _, port = server
    with pytest.raises(OSError):
        get(port, "/die")
    assert get(port)
    assert os.path.exists("/proc")
