"""The fork server: a small process that has imported what children need, and forks them.

Roles. The *server* runs `forkserver_main`. A *client* is a process that starts children by it: who
started the server, and any descendant. A *child* is forked by the server, and may become a client.

Descriptors. All are nameless: to hold one is the authority (the stdlib's server listens at an
address, and has to ask for a key). None survives an exec but that of the server.

- A *line*: a SOCK_SEQPACKET socketpair between the server and one client. No two processes share the
  client's end: a forked child closes its copy (`lifelines`). So its hang-up is the client's end.
- The *door*: another, over which any descendant may hand in the end of a line of its own. The server
  takes it from processes of its own user only: who has given up rights must not start processes that
  have them. It keeps nobody alive.
- For each child: its *data*, complete in a memory file; the *parent's sentinel*, a pipe's end whose
  other end only the client has; its *status*, a pipe that the client reads. And what it inherits.

Packets on a line, each with descriptors:

    client -> server   START number, count     data, parent's sentinel, status, three of the tracker, of
                                               which the packet says what they lead to, then the child's own
                       MORE  number            the rest, where `count` is above 253
    server -> client   STARTED number, pid     a pidfd of the child, if there are any
                       REFUSED number, errno
    child -> client    STARTED number, pid     the same; who comes second is not listened to

In the status pipe: the server writes (REAPED, pid, exit code) when it has reaped the child; the
child itself writes (ENDING, pid, exit code) just before it ends, unless it is killed or calls
`os._exit`. A client that finds no REAPED because the server is dead takes ENDING, else 255.

A *spare* is a child that has been forked ahead. It has got ready, and waits for the packets of a
START, which the server hands on to it with the line's end. Without one the server forks then.

A start: 1. the client sends START. 2. The server forks, or hands on to the spare. 3. It sends
STARTED, **the commit point**, and keeps only the status. 4. The child closes what is not its own, and
sends STARTED, which is the commit point if the server's has not been sent. 5. It closes the line, and
runs. So nothing of the program runs twice, or without the client's knowledge, whoever is killed:

- The client, before 1: there is nothing. After: the child runs, since `start()` may have returned; a
  daemonic one is killed by the kernel (`lifelines.die_with`), others are told by the sentinel. The
  server sees the line hang up. If Ctrl-C ends the start, the client empties the data: then the child
  finds nothing to run, unless it is further on than that.
- The server, before 2: the line hangs up, and nobody has sent STARTED: the client starts another
  server, and sends the same again. Between 2 and 3: the child has the line still, and goes on by
  itself, or dies as well before 4: then the line hangs up, and the client does the same again.
- The spare, before 2: the server forks. The child, from 2 on: the server says so by REAPED. The client
  may find that before STARTED, if the server cannot send it any more: it was started, and has ended.
  It looks at the status first, then at the line, so that no STARTED is overlooked.
- A stopped process stalls who waits for it, as everywhere; Ctrl-C ends the wait.

The server ends when its last line hangs up. Whoever finds it dead starts another: that one is the
finder's and its descendants' to come.

Threads of a client start one after the other. A signal handler that starts a process while its
thread is in the middle of a start may read the other's answer, and keeps it for it.

A handler may as well raise in the middle of a start. If the child has said STARTED, it is known, as
after any start. If not, it has not looked at its data yet, and as these are emptied it will find
nothing to run (`settle`).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
from multiprocessing import spawn, util

from . import _native, interpreters, lifelines, popen
from .noting import RLock, close_all, note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["ForkServer", "ensure_running", "get_inherited_fds", "set_forkserver_preload"]

HEAD = struct.Struct("=BqI")  # of every packet on a line: kind, number; count, pid or errno
START, MORE, STARTED, REFUSED = range(1, 5)
STATUS = struct.Struct("=Bqq")  # in a status pipe: kind, pid, exit code
REAPED, ENDING = range(1, 3)
MOST_FDS = 253  # in one packet: the kernel's SCM_MAX_FD
CLOSE_ON_EXEC = 0x40000000  # MSG_CMSG_CLOEXEC

_MOMENT = 0.1  # seconds that an interrupted start waits for its answer
_ATTEMPTS = 10  # servers that may be killed in the course of one start
# This very package, wherever it was found: no other name is looked up in its directory.
_PROGRAM = """\
import sys, importlib.util as util
if "fastmp" not in sys.modules:
    spec = util.spec_from_file_location("fastmp", {init!r})
    package = sys.modules["fastmp"] = util.module_from_spec(spec)
    spec.loader.exec_module(package)
from fastmp.forkserver_main import main
main({line}, {door}, {entry}, {preparation})
"""
# The same of a package that is not made of files.
_PROGRAM_ELSEWHERE = """\
import sys
sys.path.insert(0, {parent!r})
from fastmp.forkserver_main import main
main({line}, {door}, {entry}, {preparation})
"""
# PyInstaller and others know such a command by its start.
_OF_FROZEN_PROGRAM = "from multiprocessing.forkserver import main\n"
_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
_WHERE = {"init": f"{_DIRECTORY}/__init__.py", "parent": os.path.dirname(_DIRECTORY)}

# Modules that a server has as well if the program that starts it has them.
_IN_USE = (
    "fastmp.sharedctypes",
    "fastmp.broadcast",
    "fastmp.futures",
    "fastmp.pool",
    "multiprocessing.connection",
    "multiprocessing.pool",
    "multiprocessing.managers",
    "multiprocessing.shared_memory",
    "concurrent.futures.process",
)


def send(
    line: _Line | socket.socket, kind: int, number: int, word: int, fds: Sequence[int] = (), rest: bytes = b""
) -> None:
    """Sends one packet."""
    _native._send_packet(line.fileno(), HEAD.pack(kind, number, word) + rest, fds)


def tell(line: socket.socket, kind: int, number: int, word: int, fds: Sequence[int] = ()) -> None:
    """Sends one packet, if there is still anybody to read it."""
    try:
        send(line, kind, number, word, fds)
    except OSError:
        return


def tell_started(line: int, number: int, pid: int) -> None:
    """Of a child: says so itself, and sends a pidfd, if there are any."""
    _native._send_self(line, HEAD.pack(STARTED, number, pid))


class Answer:
    """What is known of a start: by the server, by the child, or by its status pipe."""

    def __init__(self) -> None:
        self.number = 0
        self.kind = 0  # STARTED or REFUSED, once there is one
        self.word = 0  # the pid, or an errno
        self.fds: list[int] = []  # a pidfd, if there are any
        self.said: list[bytes] = []  # what the status pipe has said already

    def is_there(self) -> bool:
        if not self.kind and self.said and len(self.said[0]) == STATUS.size:
            self.kind, self.word = STARTED, STATUS.unpack(self.said[0])[1]
        return self.kind != 0


class _Line:
    """This process's end of a line. Who drops it closes it."""

    def __init__(self, number: int) -> None:
        self._numbers = [number]

    def fileno(self) -> int:
        return self._numbers[0] if self._numbers else -1

    def hang_up(self) -> None:
        close_all(self._numbers)


class _Lost(Exception):
    """The server has ended before it did what it was asked."""


class ForkServer:
    """The server as one process sees it."""

    def __init__(self) -> None:
        self._preload_modules: Sequence[str] = ["__main__"]
        self._on_error = "ignore"
        self._inherited_fds: list[int] | None = None
        self._forkserver_pid: int | None = None  # only where it was started
        self._door: int | None = None
        self._door_inode = 0
        self._line: _Line | None = None
        self._lock = RLock()  # a signal handler may come in between
        self._packets: list[tuple[bytes, list[int], bool]] = []  # read, and not looked at yet
        self._waiting: dict[int, Answer] = {}  # by number; a start inside another may read its answer
        self._number = 0

    def set_forkserver_preload(self, modules_names: Sequence[str], *, on_error: str = "ignore") -> None:
        """Sets the names of the modules that the server imports when it starts.

        `on_error` says what is done about one that cannot be: "ignore", "warn" or "fail".

        Raises:
            TypeError: these are not strings.
            ValueError: there is no such `on_error`.
        """
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        if on_error not in ("ignore", "warn", "fail"):
            raise ValueError(f"on_error must be 'ignore', 'warn', or 'fail', not {on_error!r}")
        self._preload_modules = modules_names
        self._on_error = on_error

    def get_inherited_fds(self) -> list[int] | None:
        """Returns what this process was started with; None if it is no child of a server."""
        return self._inherited_fds

    def ensure_running(self) -> None:
        """Sees to it that there is a server; does not wait until it is ready."""
        with self._lock:
            if self._line is not None and _hung_up(self._line):
                self._lose()
            self._connect()

    def start(self, fds: Sequence[int], files: bytes, status: int, answer: Answer) -> None:
        """Starts a child that gets `fds`; `files` says of those of the resource tracker what they are.

        Of the status pipe, `status` is the end that is read. What comes of it is in `answer`; the
        caller calls `settle` if this is interrupted, and `forget` in any case.

        Raises:
            OSError: the server could not start it: for want of memory or descriptors.
            EOFError: the server cannot be started, or was killed again and again.
        """
        with self._lock:
            self._number += 1
            answer.number = self._number
            self._waiting[answer.number] = answer
            for _ in range(_ATTEMPTS):
                try:
                    line = self._connect()
                    self._ask(line, answer.number, fds, files)
                    self._hear(line, answer, status)
                    break
                except _Lost:
                    self._lose()
            else:
                raise EOFError("the fork server was killed again and again")
            if answer.kind == REFUSED:
                raise OSError(answer.word, os.strerror(answer.word))

    def settle(self, answer: Answer, data: int) -> bool:
        """Of a start that has been interrupted: is there a child? If not, there will be none."""
        locked: list[bool] = []
        try:
            note(locked, self._lock.acquire, True, _MOMENT)
            hears = answer.number and locked[0]
            try:
                if hears and not answer.is_there():
                    self._hear_in(answer, _MOMENT)
            finally:  # a second handler may raise
                if not answer.is_there():
                    os.ftruncate(data, 0)  # who finds nothing there does not run
            # Whoever has looked before has said so before.
            if hears and not answer.is_there():
                self._hear_in(answer, 0.0)
        finally:
            if any(locked):
                self._lock.release()
        return answer.is_there() and answer.kind == STARTED

    def _hear_in(self, answer: Answer, seconds: float) -> None:
        """Reads what answers there are, and waits so long for that one."""
        deadline = time.monotonic() + seconds
        try:
            while (line := self._line) is not None and not answer.is_there():
                if not self._read(line):
                    rest = deadline - time.monotonic()
                    if rest <= 0 or not popen.wait_readable(line.fileno(), rest):
                        return
        except _Lost:
            return

    def forget(self, answer: Answer) -> None:
        """Nobody waits for that any more."""
        self._waiting.pop(answer.number, None)
        close_all(answer.fds)

    def _ask(self, line: _Line, number: int, fds: Sequence[int], files: bytes) -> None:
        try:
            send(line, START, number, len(fds), fds[:MOST_FDS], files)
            for at in range(MOST_FDS, len(fds), MOST_FDS):
                send(line, MORE, number, 0, fds[at : at + MOST_FDS])
        except (BrokenPipeError, ConnectionResetError):
            raise _Lost from None
        except BaseException as error:
            if self._line is not line and isinstance(error, OSError):
                raise _Lost from None  # a start in a signal handler has lost it
            if len(fds) > MOST_FDS and self._line is line:
                line.hang_up()  # the server must not wait for the rest, with all these in hand
                self._line = None
            raise

    def _hear(self, line: _Line, answer: Answer, status: int) -> None:
        poll = select.poll()
        try:
            poll.register(line, select.POLLIN)
        except ValueError:  # lost meanwhile, as above
            raise _Lost from None
        poll.register(status, select.POLLIN)
        while True:
            ended = status in (fd for fd, _ in poll.poll())  # before the line is read: see above
            # A start in a signal handler may have read this one's answer, or lost the line.
            while not answer.is_there() and self._line is line and self._read(line):
                pass
            if answer.is_there():
                return
            if self._line is not line:
                raise _Lost
            if ended:
                note(answer.said, os.read, status, STATUS.size)
                if not answer.said[-1]:  # it was killed before it said anything: the server will tell
                    answer.said.pop()
                    poll.unregister(status)

    def _read(self, line: _Line) -> bool:
        """Reads an answer, if there is one."""
        while not self._packets:
            try:
                note(self._packets, _native._receive_packet, line.fileno(), False)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                pass  # it has not read all that was sent; what it has sent is there still
            except OSError:
                if self._line is line:
                    raise
                raise _Lost from None
        packet, fds, _ = first = self._packets[0]
        if not packet:
            raise _Lost
        kind, number, word = HEAD.unpack_from(packet)
        answer = self._waiting.get(number)
        if answer is None:  # of a start that Ctrl-C has ended
            close_all(fds)
        elif not answer.kind:
            answer.fds, answer.word, answer.kind = fds, word, kind
        elif answer.fds is not fds:
            close_all(fds)  # the child says what the server has said
        if self._packets and self._packets[0] is first:  # a handler may have looked at it, too
            del self._packets[0]
        return True

    def _connect(self) -> _Line:
        """Returns this process's line; makes one, to a new server if there is none."""
        if self._line is not None and self._line.fileno() >= 0:
            return self._line
        if self._door is not None:
            made: list[tuple[int, ...]] = []
            try:
                note(made, lifelines.make_line)
                mine, servers = made[0]
                line = _Line(mine)
                if self._knock(servers):
                    self._line, made[0] = line, (servers,)
                    return line
            finally:
                close_all(made)
            self._close_door()
        self._launch()
        assert self._line is not None
        return self._line

    def _knock(self, end: int) -> bool:
        """Hands in the server's end of a line at the door; is there still anybody?"""
        assert self._door is not None
        try:
            # A daemon closes every descriptor: the number may be another file's by now.
            if os.fstat(self._door).st_ino != self._door_inode:
                self._door = None
                return False
            _native._send_packet(self._door, b".", [end])
        except OSError:
            return False
        return True

    def _launch(self) -> None:
        made: list[Any] = []
        pids: list[int] = []
        try:
            note(made, lifelines.make_line)
            note(made, _native._socket_pair)
            # In a file: a command line has no room for a program's that is long itself.
            note(made, _native._data_file, "fastmp:preparation")
            (mine, servers), (entry, door), file = made
            with open(file, "w+b", closefd=False) as preparation:
                pickle.dump(self._preparation(), preparation)
                preparation.flush()
                preparation.seek(0)  # the server shares the position
            fds = {"line": servers, "door": door, "entry": entry, "preparation": file}
            program = _PROGRAM if os.path.isfile(_WHERE["init"]) else _PROGRAM_ELSEWHERE
            program = program.format(**_WHERE, **fds)
            flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
            executable = os.fsencode(spawn.get_executable())
            if _may_be_frozen(executable):
                program = _OF_FROZEN_PROGRAM + program
            line, inode = _Line(mine), _native._inode(door)
            interpreters.start(executable, [executable, *flags, "-c", program], fds.values(), pids)
            # Between these no signal handler runs.
            self._line, self._forkserver_pid = line, pids[0]
            self._door, self._door_inode = door, inode
            made[:2] = (servers,), (entry,)
        except BaseException:
            for pid in pids:  # nobody would know of it
                with contextlib.suppress(ProcessLookupError, ChildProcessError):  # SIGCHLD may be ignored
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            raise
        finally:
            close_all(made)

    def _preparation(self) -> dict[str, Any]:
        unchanged: Any = sys.modules.get("fastmp.unchanged")
        preparation: dict[str, Any] = {
            "install": "" if unchanged is None else unchanged.travelling(),
            "in_use": [name for name in _IN_USE if name in sys.modules],
            "preload": list(self._preload_modules),
        }
        if self._preload_modules:
            wanted = ("sys_path", "sys_argv", "init_main_from_name", "init_main_from_path")
            data = spawn.get_preparation_data("ignore")
            preparation.update({name: data[name] for name in wanted if name in data}, on_error=self._on_error)
        return preparation

    def _lose(self) -> None:
        """The server does not answer any more: it has ended, or will have nothing to do with us.

        Raises:
            EOFError: it has ended by itself, as nobody expected it to: so would the next.
        """
        # Whatever a signal handler interrupts is done once more.
        self._packets = [each for each in self._packets if each[0]]  # of its end nobody need be told
        if self._line is not None:
            self._line.hang_up()
            self._line = None
        self._close_door()
        pid = self._forkserver_pid
        code = None if pid is None else _reap(pid)
        self._forkserver_pid = None
        if code is not None and code >= 0:
            raise EOFError(f"the fork server has ended with exit code {code}")

    def _keep_door(self, door: int) -> None:
        self._door, self._door_inode = door, _native._inode(door)

    def _close_door(self) -> None:
        if self._door is not None:
            _native._close_same(self._door, self._door_inode)
            self._door = None

    def _stop(self) -> None:
        """Lets the server end, and waits for it if it was started here. Used by tests."""
        with self._lock:
            pid = self._forkserver_pid
            with contextlib.suppress(EOFError):
                self._forkserver_pid = None
                self._lose()
            if pid is not None:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _stop_unlocked(self) -> None:
        self._stop()

    def _after_fork_in_child(self) -> None:
        """The line is the parent's, and so is the server's number. The door leads to it still."""
        self._lock = RLock()  # who has the old one in the middle of a `with` releases that
        line, self._line = self._line, None
        if line is not None:  # `lifelines` has closed it
            self._forkserver_pid = None
            self._packets.clear()
            self._waiting.clear()

    def _become_child(self, inherited: list[int]) -> None:
        """Of a child of the server, which has the door already."""
        self._inherited_fds = inherited


def _may_be_frozen(executable: bytes) -> bool:
    """Need that be told that it is to be a fork server? A plain interpreter is spared a module that
    each child would have, and those that this one needs."""
    return bool(getattr(sys, "frozen", False)) or executable != os.fsencode(sys.executable or "")


def packet_sockets() -> tuple[socket.socket, socket.socket]:
    """Returns a pair of sockets that packets are sent by."""
    one, other = _native._socket_pair()
    return socket.socket(fileno=one), socket.socket(fileno=other)


def _hung_up(line: _Line) -> bool:
    if line.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(line, 0)
    return bool(poll.poll(0))


def _reap(pid: int) -> int | None:
    """Waits a moment for a server that has hung up; returns its exit code, None if nobody knows."""
    pidfd: list[int | None] = []
    try:
        note(pidfd, popen.open_pidfd, pid)
        if pidfd[0] is not None:
            popen.wait_readable(pidfd[0], 1)
        ended, status = os.waitpid(pid, 0 if pidfd[0] is None else os.WNOHANG)
    except ChildProcessError:
        return None
    finally:
        close_all(pidfd)
    return os.waitstatus_to_exitcode(status) if ended else None


_forkserver = ForkServer()
ensure_running = _forkserver.ensure_running
get_inherited_fds = _forkserver.get_inherited_fds
set_forkserver_preload = _forkserver.set_forkserver_preload

os.register_at_fork(after_in_child=_forkserver._after_fork_in_child)


def __getattr__(name: str) -> Any:
    # Not before it is asked for: it needs sockets, compression and more, that each child would have.
    from multiprocessing import forkserver

    return getattr(forkserver, name)  # whatever is not ours
