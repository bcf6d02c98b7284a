"""The fork server: who is whose, what is told, and what is left whoever is killed.

Long, for it holds all steps of one protocol.
"""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time

import fastmp
import pytest
from children import processes, starters
from children.common import children_of, look_at, wait_asleep, wait_until
from fastmp import forkserver, popen

pytestmark = pytest.mark.skipif(not fastmp.accelerated, reason="the stdlib's own")

CONTEXT = fastmp.get_context("forkserver")


@pytest.fixture
def server():
    """A new one, as tests kill it."""
    forkserver._forkserver._stop()
    yield forkserver._forkserver
    forkserver._forkserver._stop()
    forkserver.set_forkserver_preload(["__main__"])


@pytest.fixture
def patient(server):
    """One whose spare waits for as long as a test takes on a slow machine."""
    forkserver.set_forkserver_preload(["children.patient_servers"])
    return server


def start(target, *args, daemon=None):
    child = CONTEXT.Process(target=target, args=args, daemon=daemon)
    child.start()
    return child


def run(target, *args):
    child = start(target, *args)
    child.join()
    assert child.exitcode == 0


def has_ended(pid):
    return (seen := look_at(pid)) is None or seen.state in "ZX"


def descriptors(pid="self"):
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: look_at(pid).state == "T", "a stop")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# --- Whose server ---


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_child_has_its_parents_server(server, method):
    out = fastmp.RawValue("i")
    run(starters.note_parent, out)
    assert out.value == server._forkserver_pid
    out.value = 0
    child = fastmp.get_context(method).Process(target=starters.start_and_note_parent, args=(out, "fastmp", method))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert out.value == server._forkserver_pid


@pytest.mark.skipif(os.getuid() != 0, reason="needs rights to give up")
def test_who_has_given_up_rights_gets_a_server_without_them(server, tmp_path):
    server.ensure_running()
    out, uid = fastmp.RawValue("i"), fastmp.RawValue("i")
    child = fastmp.get_context("fork").Process(target=starters.start_as_nobody, args=(out, uid))
    child.start()
    child.join()
    # Its own may not be able to read this interpreter's files, and says so then.
    assert uid.value in (0, 65534)
    assert uid.value == 65534 or child.exitcode == 1
    run(starters.note_uid, uid)
    assert uid.value == 0


def test_who_has_closed_every_descriptor(server):
    out = fastmp.RawValue("i")
    server.ensure_running()
    run(os.getpid)
    pid = os.fork()
    if pid == 0:
        starters.use_after_closing_everything(out, "forkserver")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert out.value == 1
    run(os.getpid)


# --- What is told ---


def test_exit_codes_without_pidfds(server):
    forkserver.set_forkserver_preload(["children.no_pidfds"])
    for way, code in (("sys.exit(3)", 3), ("os._exit(7)", 7), ("SIGKILL", -9), ("raise", 1)):
        child = start(processes.end_by, way)
        assert child._popen._pidfd is None
        child.join()
        assert (child.exitcode, look_at(child.pid)) == (code, None)
    child = start(processes.sleep_for_ever)
    child.join(0.05)
    assert child.is_alive()
    child.terminate()
    child.join(30)
    assert child.exitcode == -signal.SIGTERM


def test_ctrl_c_is_for_the_children(patient):
    out, running = fastmp.RawValue("b"), fastmp.RawValue("b")
    child = start(starters.note_interrupt, out, running)
    wait_until(lambda: running.value, "the child")
    wait_until(lambda: len(children_of(patient._forkserver_pid)) == 2, "the spare")
    spare = next(p.pid for p in children_of(patient._forkserver_pid) if p.pid != child.pid)
    for pid in (patient._forkserver_pid, spare, child.pid):
        os.kill(pid, signal.SIGINT)
    child.join()
    assert (child.exitcode, out.value) == (0, 1)
    run(os.getpid)
    assert not has_ended(patient._forkserver_pid)


def run_script(tmp_path, text, **options):
    script = tmp_path / "program.py"
    script.write_text(text)
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100, **options)


# What a child has of the program's signals; then how another ends that is killed.
SIGNALS = """
import os, signal, time, fastmp as mp
def handler(number, frame):
    pass
def show():
    blocked = {signal.SIGINT, signal.SIGCHLD} & signal.pthread_sigmask(signal.SIG_BLOCK, [])
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGCHLD)]
    print(*[getattr(each, "name", None) or each.__name__ for each in handlers], len(blocked), flush=True)
SETUP
if __name__ == "__main__":
    context = mp.get_context("forkserver")
    child = context.Process(target=show)
    child.start()
    child.join()
    child = context.Process(target=time.sleep, args=(1000,))
    child.start()
    child.kill()
    child.join()
    server = mp.forkserver._forkserver._forkserver_pid
    with open(f"/proc/{server}/status") as file:
        ignored = next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn"))
    print(child.exitcode, ignored >> signal.SIGINT - 1 & 1)
"""


@pytest.mark.parametrize(
    ("setup", "shown"),
    [
        ("", "default_int_handler SIG_DFL 0"),
        # Inherited, as by a shell's background jobs.
        ("if __name__ == '__main__': [signal.signal(n, signal.SIG_IGN) for n in (2, 17)]", "SIG_IGN SIG_IGN 0"),
        ("if __name__ == '__main__': signal.pthread_sigmask(0, [2, 17])", "default_int_handler SIG_DFL 2"),
        # Preloaded.
        ("[signal.signal(n, handler) for n in (2, 17)]", "handler handler 0"),
        ("[signal.signal(n, signal.SIG_IGN) for n in (2, 17)]", "SIG_IGN SIG_IGN 0"),
    ],
)
def test_the_program_s_signals(tmp_path, setup, shown):
    done = run_script(tmp_path, SIGNALS.replace("SETUP", setup))
    assert done.stderr == ""
    assert done.stdout.splitlines() == [shown, "-9 1"]


def test_what_is_preloaded_forks(server, tmp_path, monkeypatch):
    """The child is no server, and nobody waits for it."""
    (tmp_path / "forks_here.py").write_text(
        "import os, signal\nread, write = os.pipe()\n"
        "child = os.fork()\n"
        "if child == 0:\n    os.write(write, b'.')\n    signal.pause()\n"
        "os.read(read, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    forkserver.set_forkserver_preload(["forks_here"])
    run(os.getpid)
    forked = children_of(server._forkserver_pid)[0].pid  # the oldest
    try:
        os.kill(server._forkserver_pid, signal.SIGKILL)
        forkserver.set_forkserver_preload([])
        starting = threading.Thread(target=run, args=(os.getpid,), daemon=True)
        starting.start()
        starting.join(50)
        assert not starting.is_alive()
    finally:
        os.kill(forked, signal.SIGKILL)


def test_what_a_child_execs_has_nothing_of_ours(tmp_path):
    """Neither descriptors, nor is it killed with the parent, as the daemon that it was."""
    before = "import os, sys, fastmp as mp\nlock, conn = mp.Lock(), mp.Pipe()\n"
    target = (
        "def target(lock, conn):\n"
        "    code = 'import os, time; print(os.getpid(), os.listdir(\"/proc/self/fd\"), flush=True); time.sleep(100)'\n"
        "    os.execv(sys.executable, [sys.executable, '-S', '-c', code])\n"
    )
    main = (
        "if __name__ == '__main__':\n"
        "    child = mp.get_context(sys.argv[1]).Process(target=target, args=(lock, conn), daemon=True)\n"
        "    child.start()\n"
        "    sys.stdin.read()\n"
    )
    script = tmp_path / "program.py"
    script.write_text(before + target + main)
    for method in ("fork", "spawn", "forkserver"):
        program = subprocess.Popen(
            [sys.executable, str(script), method], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with program:
            pid, _, numbers = program.stdout.readline().partition(" ")
            try:
                assert sorted(eval(numbers)) == ["0", "1", "2", "3"]  # one to read the folder by
                program.kill()
                program.wait()
                time.sleep(0.2)
                assert not has_ended(int(pid))
            finally:
                os.kill(int(pid), signal.SIGKILL)


def test_a_stopped_server_stalls_nobody_who_waits_for_a_while(server):
    """Only what it alone knows is not known: how a child was killed."""
    running = fastmp.RawValue("b")
    ends, killed = start(processes.end_by, "sys.exit(3)"), start(processes.sleep_for_ever, running)
    exits = start(processes.wait_for_and_exit, running)
    wait_until(lambda: running.value, "the children")
    ends.join()
    seen = []

    def look():
        killed.join(0.1)
        seen.append(killed.exitcode)
        exits.join()  # which it has said itself
        seen.append(exits.exitcode)

    with stopped(server._forkserver_pid):
        running.value = 2
        killed.kill()
        assert popen.wait_readable(killed.sentinel, 50)
        assert popen.wait_readable(exits.sentinel, 50)
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(50)
        assert seen == [None, 4]
    killed.join()
    assert killed.exitcode == -signal.SIGKILL


def test_a_server_looks_nowhere_for_the_standard_library_s_modules(tmp_path):
    """The folder that the package is in may have others of the same names."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "fastmp").symlink_to(os.path.dirname(fastmp.__file__))
    (site / "queue.py").write_text("raise RuntimeError('not the one that was meant')\n")
    text = (
        f"import sys\nsys.path.append({str(site)!r})\n"
        f"sys.path[:] = [path for path in sys.path if path != {os.path.dirname(os.path.dirname(fastmp.__file__))!r}]\n"
        "import multiprocessing.pool, os, fastmp as mp\n"
        "def target():\n    print(mp.__file__, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    child = mp.get_context('forkserver').Process(target=target)\n"
        "    child.start()\n    child.join()\n"
    )
    done = run_script(tmp_path, text)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{site}/fastmp/__init__.py\n")


def test_a_server_has_no_modules_that_no_child_needs(tmp_path):
    text = (
        "import sys, fastmp as mp\n"
        "def target():\n"
        "    names = 'multiprocessing.forkserver', 'multiprocessing.connection'\n"
        "    print([name for name in names if name in sys.modules], flush=True)\n"
        "if __name__ == '__main__':\n"
        "    child = mp.get_context('forkserver').Process(target=target)\n"
        "    child.start()\n    child.join()\n"
    )
    assert run_script(tmp_path, text).stdout == "[]\n"


def test_a_server_has_what_the_program_s_pools_need(tmp_path):
    text = (
        "import sys, fastmp as mp\n"
        "def target():\n    print('fastmp.futures' in sys.modules, 'fastmp.pool' in sys.modules, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    mp.ProcessPoolExecutor, mp.pool\n"
        "    child = mp.get_context('forkserver').Process(target=target)\n"
        "    child.start()\n    child.join()\n"
    )
    assert run_script(tmp_path, text).stdout == "True True\n"


def test_a_main_module_that_sets_a_timeout_for_sockets(tmp_path):
    """The server runs it, too: a child that waits to be used must wait all the same."""
    text = (
        "import os, socket, time, fastmp as mp\n"
        "socket.setdefaulttimeout(5)\n"
        "def target():\n    print('run', flush=True)\n"
        "if __name__ == '__main__':\n"
        "    for _ in range(3):\n"
        "        child = mp.get_context('forkserver').Process(target=target)\n"
        "        child.start()\n        child.join()\n        time.sleep(0.2)\n"
    )
    done = run_script(tmp_path, text)
    assert (done.stdout, done.stderr) == ("run\n" * 3, "")


def test_a_frozen_program_s_server(tmp_path, server):
    """PyInstaller's start-up code knows the stdlib's command by how it begins."""
    frozen = tmp_path / "frozen"
    frozen.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "def run():\n"
        "    assert sys.argv[-2] == '-c'\n"
        "    assert sys.argv[-1].startswith('from multiprocessing.forkserver import main')\n"
        "    exec(sys.argv[-1])\n"
        "run()\n"
    )
    frozen.chmod(0o755)
    before = fastmp.spawn.get_executable()
    fastmp.set_executable(str(frozen))
    try:
        run(os.getpid)
    finally:
        fastmp.set_executable(before)


def test_a_start_that_makes_no_sense_ends_no_server(server):
    run(os.getpid)
    pid = server._forkserver_pid
    for kind, count, fds in [
        (forkserver.START, 0, ()),
        (forkserver.START, 2, (0, 1)),
        (forkserver.START, 5, (0, 1, 2, 0, 1)),
        (forkserver.START, 3, (0, 1, 2, 0)),
        (forkserver.MORE, 1, (0,)),
        (99, 1, ()),
    ]:
        forkserver.send(server._line, kind, 10**6, count, fds)
        run(os.getpid)
    assert server._forkserver_pid == pid


def test_more_descriptors_than_fit_in_a_packet(server):
    pipes = [os.pipe() for _ in range(300)]
    ends = [fastmp.connection.Connection(reading, writable=False) for reading, _ in pipes]
    out = fastmp.RawValue("i")
    for _ in range(2):  # forked, and by the spare
        run(starters.count_files, out, ends)
        assert out.value == 300
    for end, (_, writing) in zip(ends, pipes, strict=True):
        end.close()
        os.close(writing)


def test_a_server_without_descriptors_refuses(server):
    run(os.getpid)
    pid = server._forkserver_pid
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + 10, hard))
    out = fastmp.RawValue("i")
    ends = [fastmp.connection.Connection(os.dup(0), writable=False) for _ in range(50)]
    with pytest.raises(OSError, match="Too many open files"):
        start(starters.count_files, out, ends)
    assert server._forkserver_pid == pid
    run(os.getpid)


def test_a_server_that_cannot_start(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import sys, fastmp as mp\n"
        "if __name__ == '__main__':\n"
        "    ctx = mp.get_context('forkserver')\n"
        "    ctx.set_forkserver_preload(['no_such_module'], on_error=sys.argv[1])\n"
        "    p = ctx.Process(target=print, args=('ran',))\n"
        "    try:\n"
        "        p.start()\n"
        "    except EOFError as error:\n"
        "        print(error)\n"
        "    else:\n"
        "        p.join()\n"
    )
    seen = {}
    for way in ("ignore", "warn", "fail"):
        command = [sys.executable, "-W", "always", str(script), way]
        seen[way] = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert (seen["ignore"].stdout, seen["ignore"].stderr) == ("ran\n", "")
    assert seen["warn"].stdout == "ran\n"
    assert "ImportWarning" in seen["warn"].stderr
    assert "no_such_module" in seen["warn"].stderr
    assert seen["fail"].stdout == "the fork server has ended with exit code 1\n"
    assert "ModuleNotFoundError" in seen["fail"].stderr


@pytest.mark.parametrize("preload", ["['__main__']", "[]"])
def test_the_main_module_is_imported_once(tmp_path, preload):
    script = tmp_path / "program.py"
    script.write_text(
        "import os, sys, fastmp as mp\n"
        "print('imported', __name__, flush=True)\n"
        "def target():\n"
        "    print('ran', flush=True)\n"
        "if __name__ == '__main__':\n"
        "    ctx = mp.get_context('forkserver')\n"
        f"    ctx.set_forkserver_preload({preload})\n"
        "    for _ in range(3):\n"
        "        p = ctx.Process(target=target)\n"
        "        p.start()\n"
        "        p.join()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd="/")
    assert done.stderr == ""
    assert done.stdout.count("ran") == 3
    assert done.stdout.count("imported __mp_main__") == (3 if preload == "[]" else 1)


def test_a_program_s_variables_reach_its_children(tmp_path):
    """What the server does once for all is done anew when it changes."""
    script = tmp_path / "program.py"
    script.write_text(
        "import os, sys, fastmp as mp\n"
        "def target():\n"
        "    print(os.getcwd(), sys.argv[1:], 'here' in sys.path, bytes(mp.current_process().authkey), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    ctx = mp.get_context('forkserver')\n"
        "    for turn in range(4):\n"
        "        for _ in range(3):\n"
        "            p = ctx.Process(target=target)\n"
        "            p.start()\n"
        "            p.join()\n"
        "        os.chdir(['/usr', '/tmp', '/'][turn % 3])\n"
        "        sys.argv[1:] = [str(turn)]\n"
        "        sys.path.append('here')\n"
        "        mp.current_process().authkey = b'%d' % turn\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd="/")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    assert len(set(lines[:3])) == 1
    assert lines[0].startswith("/ [] False")
    assert lines[3:] == [
        *["/usr ['0'] True b'0'"] * 3,
        *["/tmp ['1'] True b'1'"] * 3,
        *["/ ['2'] True b'2'"] * 3,
    ]


# --- Many at once ---


def test_a_program_with_many_arguments(server, monkeypatch):
    """More than a command line can have."""
    monkeypatch.setattr(sys, "argv", ["x" * 100] * 5000)
    run(os.getpid)


def test_threads_that_start_at_once(server):
    counter = fastmp.Value("i")
    codes = []

    def several():
        for at in range(10):
            child = start(starters.add_one, counter, at)
            child.join()
            codes.append(child.exitcode)

    threads = [threading.Thread(target=several) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value == 40
    assert sorted(codes) == sorted(list(range(10)) * 4)


def test_a_start_in_a_signal_handler_inside_a_start(server):
    run(os.getpid)
    pid = server._forkserver_pid
    inner = []

    def handle(*_):
        os.kill(pid, signal.SIGCONT)
        inner.append(start(processes.end_by, "sys.exit(3)"))

    before = signal.signal(signal.SIGALRM, handle)
    try:
        for _ in range(3):
            os.kill(pid, signal.SIGSTOP)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            outer = start(processes.end_by, "os._exit(7)")
            outer.join()
            inner[-1].join()
            assert (outer.exitcode, inner[-1].exitcode) == (7, 3)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(inner) == 3


def test_descriptors_and_processes_stay_flat(server):
    seen = []
    for turn in range(30):
        if turn == 15:
            killed = server._forkserver_pid
            os.kill(killed, signal.SIGKILL)
        flag = fastmp.RawValue("b")
        children = [start(starters.exit_when, flag, 3) for _ in range(3)]
        children[0].kill()
        flag.value = 1
        for child in children:
            child.join()
            child.close()
        seen.append(descriptors())
    assert seen[29] <= seen[3]
    pid = server._forkserver_pid
    wait_until(lambda: len(children_of(pid)) <= 1, "the end of children")
    before = descriptors(pid)
    for _ in range(10):
        run(os.getpid)
    wait_until(lambda: descriptors(pid) <= before, "closed descriptors")
    assert killed not in (p.pid for p in children_of(os.getpid()))  # reaped


def test_the_spare_ends_when_nothing_comes(server):
    run(os.getpid)
    pid = server._forkserver_pid
    wait_until(lambda: len(children_of(pid)) == 1, "the spare")
    wait_until(lambda: children_of(pid) == [], "its end")
    run(os.getpid)


# --- Whoever is killed ---


def test_the_server_is_killed_between_two_starts(server):
    flag = fastmp.RawValue("b")
    waiting = start(starters.exit_when, flag, 3)
    victim = start(processes.sleep_for_ever)
    pid = server._forkserver_pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: (seen := look_at(pid)) is None or seen.state == "Z", "the server's end")
    assert waiting.is_alive()
    assert victim.is_alive()
    run(os.getpid)
    assert server._forkserver_pid not in (pid, None)
    # How a child ends that has been killed nobody may know then; that it has ended, they do.
    victim.kill()
    victim.join()
    assert victim.exitcode in (255, -9)
    flag.value = 1
    waiting.join()
    assert waiting.exitcode == 3


def test_the_server_is_killed_in_the_middle_of_a_start(server):
    run(os.getpid)
    counter = fastmp.Value("i")
    for _ in range(3):
        pid = server._forkserver_pid
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(0.1, os.kill, (pid, signal.SIGKILL)).start()
        child = start(starters.add_one, counter, 3)
        child.join()
        assert child.exitcode == 3
        assert server._forkserver_pid != pid
    assert counter.value == 3


@pytest.mark.timeout(120)
def test_the_server_is_killed_all_the_time(server):
    """Every start works or raises, every join returns, and nothing runs twice."""
    began = time.monotonic()
    run(os.getpid)
    takes = time.monotonic() - began  # it comes up between two kills, mostly
    chance = random.Random(7)
    done = threading.Event()

    def kill():
        while not done.wait(chance.uniform(0, 4 * takes)):
            pid = server._forkserver_pid
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    counters, members = [], []
    try:
        while len(counters) < 60 and time.monotonic() - began < 30:
            counters.append(fastmp.Value("i"))
            with contextlib.suppress(EOFError):
                members.append((start(starters.add_one, counters[-1], 3), counters[-1]))
        for child, counter in members:
            child.join()
            assert child.exitcode == 3
            assert counter.value == 1
    finally:
        done.set()
        killer.join()
    assert members
    assert all(counter.value <= 1 for counter in counters)


def test_the_spare_is_killed(patient):
    counter = fastmp.Value("i")
    for turn in range(6):
        run(starters.add_one, counter)
        pid = patient._forkserver_pid
        wait_until(lambda: len(children_of(pid)) == 1, "the spare")  # noqa: B023
        spare = children_of(pid)[0].pid
        os.kill(spare, signal.SIGKILL)
        if turn % 2:
            wait_until(lambda: children_of(pid) == [], "its end")  # noqa: B023
        child = start(starters.add_one, counter)
        child.join()
        # It may have been told what it was to be, and been killed then.
        assert child.exitcode == 0 or (child.exitcode, child.pid) == (-9, spare)


def test_a_stopped_spare_that_is_killed_was_started(patient):
    run(os.getpid)
    pid = patient._forkserver_pid
    wait_until(lambda: len(children_of(pid)) == 1, "the spare")
    spare = children_of(pid)[0].pid
    wait_asleep(spare)
    os.kill(spare, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (spare, signal.SIGKILL)).start()
    counter = fastmp.Value("i")
    child = start(starters.add_one, counter)
    child.join()
    assert (child.pid, child.exitcode, counter.value) == (spare, -9, 0)
    run(starters.add_one, counter)
    assert counter.value == 1


@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize("who", ["server", "child"])
def test_killed_before_the_server_has_said_so(server, tmp_path, monkeypatch, who, spare):
    """The child says so itself; and if it is killed as well, it is started once more."""
    path = tmp_path / "dies"
    monkeypatch.setenv("FASTMP_TEST_DIES", str(path))
    forkserver.set_forkserver_preload(["children.patient_servers", "children.dying_servers"])
    server.ensure_running()
    pid = server._forkserver_pid
    if spare:
        run(os.getpid)
        wait_until(lambda: len(children_of(pid)) == 1, "the spare")
    path.write_text(who)
    counter = fastmp.Value("i")
    child = start(starters.add_one, counter, 3)
    child.join()
    assert (child.exitcode, counter.value) == (3, 1)
    assert not path.exists()
    run(os.getpid)
    assert server._forkserver_pid != pid


def test_server_and_child_are_killed_when_it_has_been_started(patient):
    run(os.getpid)
    pid = patient._forkserver_pid
    wait_until(lambda: len(children_of(pid)) == 1, "the spare")
    spare = children_of(pid)[0].pid
    wait_asleep(spare)
    os.kill(spare, signal.SIGSTOP)
    counter = fastmp.Value("i")
    child = start(starters.add_one, counter, 3)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid), "the server's end")
    assert child.is_alive()
    os.kill(spare, signal.SIGKILL)
    child.join()
    assert child.pid == spare
    assert child.exitcode in (255, -9)
    assert counter.value == 0


PROGRAM = """
import os, signal, sys, time
import fastmp as mp
from fastmp import forkserver
from multiprocessing.connection import wait

def sleep():
    time.sleep(1000)

def watch(name):
    wait([mp.parent_process().sentinel])
    with open(name, "w") as file:
        file.write("told")

def start(name):
    ctx = mp.get_context("forkserver")
    daemon = ctx.Process(target=sleep, daemon=True)
    daemon.start()
    told = ctx.Process(target=watch, args=(name,))
    told.start()
    return daemon.pid, told.pid

def nested(name, conn):
    conn.send(start(name + "2"))
    time.sleep(1000)

if __name__ == "__main__":
    ctx = mp.get_context("forkserver")
    pids = start(sys.argv[1])
    ours, theirs = mp.Pipe()
    child = ctx.Process(target=nested, args=(sys.argv[1], theirs))
    child.start()
    print(forkserver._forkserver._forkserver_pid, *pids, child.pid, *ours.recv(), flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("victims", ["parent", "parent and server", "parent and child", "parent, child and server"])
def test_nobody_is_left(tmp_path, victims):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    note = tmp_path / "note"
    program = subprocess.Popen([sys.executable, str(script), str(note)], stdout=subprocess.PIPE, text=True, cwd="/")
    with program:
        server, daemon, told, child, daemon_2, told_2 = map(int, program.stdout.readline().split())
        program.kill()
    if "server" in victims:
        os.kill(server, signal.SIGKILL)
    wait_until(lambda: has_ended(daemon) and has_ended(told), "the children's end")
    assert note.read_text() == "told"
    if "child" not in victims:
        # A child that is none of a daemon goes on, and so do its own: it is their parent.
        assert not has_ended(child)
        assert not has_ended(daemon_2)
        os.kill(child, signal.SIGKILL)
    else:
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: all(map(has_ended, (server, child, daemon_2, told_2))), "everybody's end")
    assert (tmp_path / "note2").read_text() == "told"


def test_the_server_ends_with_the_program(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import os, fastmp as mp\n"
        "from fastmp import forkserver\n"
        "if __name__ == '__main__':\n"
        "    p = mp.get_context('forkserver').Process(target=os.getpid)\n"
        "    p.start()\n"
        "    p.join()\n"
        "    print(forkserver._forkserver._forkserver_pid)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd="/")
    wait_until(lambda: has_ended(int(done.stdout)), "the server's end")


def test_ctrl_c_ends_a_start(server):
    run(os.getpid)
    pid = server._forkserver_pid

    def handle(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handle)
    counter = fastmp.Value("i")
    try:
        with stopped(pid):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                start(starters.add_one, counter)
    finally:
        signal.signal(signal.SIGALRM, before)
    run(os.getpid)  # its child has ended by then, or has been forked after the other
    assert server._forkserver_pid == pid
    wait_until(lambda: len(children_of(pid)) <= 1, "the end of children")
    assert counter.value == 0
