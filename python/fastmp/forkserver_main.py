"""What the fork server runs. `forkserver` says what is sent, by whom, and who may die when."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's functions, without their enums
import contextlib
import errno
import gc
import importlib
import io
import os
import pickle
import select
import socket
import struct
import sys
import warnings
from multiprocessing import process, spawn, util

from . import _native, bootstrap, forkserver, lifelines, popen, shared_tracker
from . import context as context  # with all that children need of us

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

__all__ = ["main"]

_CREDENTIALS = struct.Struct("=iII")  # a struct ucred: pid, uid, gid
_DATA = 0
_STATUS = 2  # the status pipe's place among the descriptors of a start
_TRACKER = 3  # of the first of the tracker's
_OWN = 6  # of what is the child's own: no start has fewer than that
_SPARE_FOR = 1000  # milliseconds that a child waits for something to do


class _Start:
    """A start whose packets are on their way here."""

    def __init__(self, packet: bytes, count: int) -> None:
        self.packet = packet
        self.count = count
        self.fds: list[int] = []


def main(line: int, door: int, entry: int, preparation: int) -> None:
    """Serves until nobody has a line any more.

    Args:
        line: the server's end of the first.
        door: the end of the door that children inherit.
        entry: the end at which lines come in.
        preparation: a file that says what is imported before, and the paths to find it by.
    """
    for fd in (line, door, entry):
        os.set_inheritable(fd, False)
    # As in the stdlib, Ctrl-C is for the program's processes. What is preloaded may have handlers.
    handlers = {_signal.SIGINT: _signal.signal(_signal.SIGINT, _wait_and_see)}
    # Nor must what a module forks there keep the line open: clients would take it for this process.
    for fd in (line, entry):
        lifelines.keep(fd)
    with open(preparation, "rb") as file:
        told = pickle.load(file)
    _import(**told)
    for fd in (line, entry):
        lifelines.share(fd)
    handlers[_signal.SIGCHLD] = _signal.signal(_signal.SIGCHLD, lambda *_: None)
    handler = _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    if handler is not _wait_and_see:
        handlers[_signal.SIGINT] = handler
    util._close_stdin()  # type: ignore[attr-defined]
    bootstrap.prepare()
    shared_tracker.prepare()
    # What is here stays: no collection in a child has to look through it, and copy its pages.
    gc.collect()
    gc.freeze()
    _Server(door, entry, handlers, told["install"]).serve(line)


def _wait_and_see(*_: Any) -> None:
    """SIGINT's handler while modules are preloaded."""


def _import(
    install: str,
    in_use: list[str],
    preload: list[str],
    on_error: str = "ignore",
    sys_path: list[str] | None = None,
    sys_argv: list[str] | None = None,
    init_main_from_name: str | None = None,
    init_main_from_path: str | None = None,
) -> None:
    exec(install, {})  # before modules bind the stdlib's names
    for name in in_use:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if sys_argv is not None:
        sys.argv[:] = sys_argv
    if sys_path is not None:
        sys.path[:] = sys_path
    main = init_main_from_name or init_main_from_path
    if "__main__" in preload and main is not None:
        me: Any = process.current_process()
        me._inheriting = True  # to start a process would be a mistake
        try:
            if init_main_from_name is not None:
                spawn._fixup_main_from_name(init_main_from_name)  # type: ignore[attr-defined]
            else:
                spawn._fixup_main_from_path(init_main_from_path)  # type: ignore[attr-defined]
        except Exception as trouble:  # it runs a script, which may raise anything
            _not_imported(on_error, f"__main__ from {main!r}", trouble)
        finally:
            del me._inheriting
    for name in preload:
        try:
            __import__(name)
        except ImportError as trouble:
            _not_imported(on_error, f"module {name!r}", trouble)
    util._flush_std_streams()  # type: ignore[attr-defined]


def _not_imported(on_error: str, what: str, trouble: Exception) -> None:
    if on_error == "fail":
        raise trouble
    if on_error == "warn":
        warnings.warn(f"Failed to preload {what}: {trouble}", ImportWarning, stacklevel=3)


class _Server:
    def __init__(self, door: int, entry: int, handlers: dict[int, Any], installed: str) -> None:
        self._door = door
        forkserver._forkserver._keep_door(door)  # of the children
        self._entry = socket.socket(fileno=entry)
        self._entry.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # What children have: not this module's handlers, nor what it lets through. Who starts the
        # server may have blocked the signal by which it learns of the ends of children.
        self._handlers = handlers
        self._blocked = _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGCHLD])
        self._lines: dict[int, socket.socket] = {}
        self._starts: dict[tuple[int, int], _Start] = {}  # by line and number
        self._running: dict[int, int] = {}  # the status pipe of each child
        self._prepared = _Prepared(installed)
        self._spare: socket.socket | None = None
        self._wants_spare = False
        self._poll = select.poll()
        self._poll.register(self._entry, select.POLLIN)
        self._woken, self._waker = _native._pipe()
        for fd in (self._woken, self._waker):
            os.set_blocking(fd, False)
        self._poll.register(self._woken, select.POLLIN)
        _signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def serve(self, line: int) -> None:
        self._admit(line)
        while self._lines:
            events = self._poll.poll(0 if self._wants_spare else None if self._spare is None else _SPARE_FOR)
            if not events:
                if self._wants_spare:
                    self._fork_spare()
                else:
                    self._drop_spare()
            for fd, _ in events:
                if fd == self._woken:
                    self._reap()
                elif fd == self._entry.fileno():
                    self._open_door()
                elif fd in self._lines:
                    self._read(fd)
        self._drop_spare()
        self._entry.close()

    def _admit(self, line: int) -> None:
        self._lines[line] = socket.socket(fileno=line)
        self._poll.register(line, select.POLLIN)

    def _dismiss(self, line: int) -> None:
        self._poll.unregister(line)
        self._lines.pop(line).close()
        for key in [key for key in self._starts if key[0] == line]:
            _close_all(self._starts.pop(key).fds)

    def _open_door(self) -> None:
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4)
        try:
            _, ancillary, _, _ = self._entry.recvmsg(1, space, socket.MSG_DONTWAIT | forkserver.CLOSE_ON_EXEC)
        except OSError:
            return
        uid: int | None = None
        fds: list[int] = []
        for _, kind, data in ancillary:
            if kind == socket.SCM_CREDENTIALS:
                _, uid, _ = _CREDENTIALS.unpack(data)
            elif kind == socket.SCM_RIGHTS:
                fds = list(memoryview(data).cast("i"))
        if len(fds) == 1 and uid == os.getuid():
            with contextlib.suppress(OSError):
                self._admit(_native._beside_standard(fds[0]))
        else:
            _close_all(fds)

    def _read(self, line: int) -> None:
        """Reads a packet, and starts a child if it was the last of a start."""
        try:
            packet, fds, short = _native._receive_packet(line, False)
        except BlockingIOError:
            return
        except OSError:
            packet, fds, short = b"", [], False
        if len(packet) < forkserver.HEAD.size:
            _close_all(fds)
            self._dismiss(line)
            return
        kind, number, count = forkserver.HEAD.unpack_from(packet)
        key = line, number
        if kind == forkserver.START:
            self._starts[key] = _Start(packet, count)
        start = self._starts.get(key)
        if start is None:
            _close_all(fds)
            return
        start.fds += fds
        makes_sense = start.count >= _OWN and len(start.fds) <= start.count
        if makes_sense and not short and len(start.fds) < start.count:
            return
        del self._starts[key]
        trouble = errno.EMFILE if short else self._start(line, start) if makes_sense else errno.EINVAL
        if trouble:
            forkserver.tell(self._lines[line], forkserver.REFUSED, number, trouble)
        _close_all(start.fds)

    def _start(self, line: int, start: _Start) -> int:
        """Lets the spare be the child, or forks; returns an errno, or 0."""
        number = forkserver.HEAD.unpack_from(start.packet)[1]
        pid, pidfd = self._use_spare(line, start)
        if pid is None:
            try:
                pid = self._fork(line, number, start)
                pidfd = popen.open_pidfd(pid)
            except OSError as trouble:
                return trouble.errno or errno.EAGAIN
        self._running[pid] = start.fds.pop(_STATUS)
        # The child says so as well, in case that this process is killed before.
        own = () if pidfd is None else (pidfd,)
        forkserver.tell(self._lines[line], forkserver.STARTED, number, pid, own)
        _close_all(own)
        self._prepared.learn(start.fds[_DATA])
        self._wants_spare = True
        return 0

    def _fork(self, line: int, number: int, start: _Start) -> int:
        kept = {line, self._door, *start.fds}
        unused = [fd for fd in self._all() if fd not in kept]
        pid = os.fork()
        if pid == 0:
            try:
                self._get_ready(unused)
                self._become_child(self._lines[line].detach(), start.packet, start.fds)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                util._flush_std_streams()  # type: ignore[attr-defined]
            finally:
                os._exit(1)
        return pid

    def _all(self) -> list[int]:
        """What of the server's own a child has no use for."""
        fds = [self._entry.fileno(), self._woken, self._waker, *self._lines, *self._running.values()]
        if self._spare is not None:
            fds.append(self._spare.fileno())
        for start in self._starts.values():
            fds += start.fds
        return fds

    # What a child does before anything of the program's runs takes longer than the rest. So one is
    # forked ahead, when the server has nothing else to do, and waits for what it is to become.

    def _fork_spare(self) -> None:
        self._wants_spare = False
        try:
            mine, its = forkserver.packet_sockets()
        except OSError:
            return
        # The program may have set a default timeout, or put other sockets in their place (gevent).
        os.set_blocking(its.fileno(), True)
        with its:
            unused = [*self._all(), mine.fileno()]
            try:
                pid = os.fork()
            except OSError:
                mine.close()
                return
            if pid == 0:
                try:
                    self._get_ready(unused)
                    self._wait(its)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    util._flush_std_streams()  # type: ignore[attr-defined]
                finally:
                    os._exit(1)
        self._spare, self._spare_pid, self._spare_pidfd = mine, pid, popen.open_pidfd(pid)

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()  # it ends, then
            self._spare = None
            if self._spare_pidfd is not None:
                os.close(self._spare_pidfd)

    def _use_spare(self, line: int, start: _Start) -> tuple[int | None, int | None]:
        """Makes the spare the child of this start, if it lives; returns its pid and pidfd."""
        if self._spare is None:
            return None, None
        fds = [line, *start.fds]
        try:
            for at in range(0, len(fds), forkserver.MOST_FDS):
                _native._send_packet(self._spare.fileno(), start.packet, fds[at : at + forkserver.MOST_FDS])
        except OSError:
            # It has been killed, or there are no descriptors to be had. Without the rest it ends.
            self._drop_spare()
            return None, None
        self._spare.close()
        self._spare = None
        return self._spare_pid, self._spare_pidfd

    def _wait(self, server: socket.socket) -> NoReturn:
        """Of the spare: becomes the child that the server says, or ends with the server."""
        fds: list[int] = []
        while True:
            packet, more, short = _native._receive_packet(server.fileno(), True)
            if not packet or short:
                os._exit(1)
            fds += more
            if len(fds) == forkserver.HEAD.unpack_from(packet)[2] + 1:
                break
        server.close()
        self._become_child(fds[0], packet, fds[1:])

    # ---

    def _reap(self) -> None:
        try:
            os.read(self._woken, 4096)
        except BlockingIOError:
            return
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (fd := self._running.pop(pid, None)) is not None:
                _say(fd, forkserver.REAPED, pid, os.waitstatus_to_exitcode(status))
                os.close(fd)
            elif self._spare is not None and pid == self._spare_pid:
                self._drop_spare()

    def _get_ready(self, unused: list[int]) -> None:
        """Of a child, first of all: it is no server."""
        _signal.set_wakeup_fd(-1)
        self._set_handler(_signal.SIGCHLD)
        if _signal.SIGCHLD in self._blocked:
            _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGCHLD])
        for fd in unused:
            os.close(fd)

    def _set_handler(self, number: int) -> None:
        if (handler := self._handlers[number]) is not None:  # of C code: nobody knows it
            _signal.signal(number, handler)

    def _become_child(self, line: int, packet: bytes, fds: list[int]) -> NoReturn:
        number = forkserver.HEAD.unpack_from(packet)[1]
        data, parent_sentinel, status = fds[:_TRACKER]
        self._set_handler(_signal.SIGINT)
        lifelines.keep(status)
        pid = os.getpid()
        # The commit point, if it is not the server's word. It fails where the client has ended.
        forkserver.tell_started(line, number, pid)
        os.close(line)
        forkserver._forkserver._become_child(fds[_OWN:])
        shared_tracker.adopt_known(fds[_TRACKER:_OWN], packet[forkserver.HEAD.size :])
        child = self._prepared.unpickle(data)
        ending = lambda code: _say(status, forkserver.ENDING, pid, code)  # noqa: E731  # a frame less
        bootstrap.prepare()._run(child, parent_sentinel, False, None, ending)
        os._exit(1)


class _Unpickler(pickle.Unpickler):
    """Of preparation data that the server may look at: nothing in them is the program's."""

    installed: str

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("multiprocessing.process", "AuthenticationString"):
            return process.AuthenticationString  # type: ignore[attr-defined]
        if (module, name) == ("builtins", "exec"):
            return self._has_run
        raise pickle.UnpicklingError(name)

    def _has_run(self, source: str, _: dict[str, Any]) -> None:
        """Instead of `exec`: what `install()` is done by has been run here, if it is the same."""
        if source != self.installed:
            raise pickle.UnpicklingError(source)


class _Prepared:
    """What the last child was told to get ready by, and the server has done for those to come."""

    def __init__(self, installed: str) -> None:
        self._installed = installed
        self._data = b""  # as they lie in front of the process object

    def learn(self, data: int) -> None:
        """Does what the data say, as far as that is no more than to set variables."""
        if self._data and os.pread(data, len(self._data), 0) == self._data:
            return
        self._data = b""
        whole = os.pread(data, os.fstat(data).st_size, 0)
        file = io.BytesIO(whole)
        try:
            unpickler = _Unpickler(file)
            unpickler.installed = self._installed
            told = unpickler.load()
            if set(told) - _VARIABLES or told.get("log_to_stderr") or not _is_main(told):
                return
            spawn.prepare(told)
        except Exception:
            return  # the child will say so
        self._data = whole[: file.tell()]

    def unpickle(self, data: int) -> Any:
        """Of a child: gets ready as the data say, and returns the process object in it."""
        whole = os.pread(data, os.fstat(data).st_size, 0)
        if not whole:
            os._exit(1)  # Ctrl-C has ended the start
        os.close(data)
        me: Any = process.current_process()
        me._inheriting = True  # to start a process would be a mistake: the main module may be imported
        try:
            if self._data and whole.startswith(self._data):
                return pickle.loads(memoryview(whole)[len(self._data) :])
            file = io.BytesIO(whole)
            spawn.prepare(pickle.load(file))
            return pickle.load(file)
        finally:
            del me._inheriting


_VARIABLES = {
    *("authkey", "dir", "fastmp", "init_main_from_name", "init_main_from_path", "log_to_stderr"),
    *("name", "orig_dir", "start_method", "sys_argv", "sys_path"),
}


def _is_main(told: dict[str, Any]) -> bool:
    """Is the program's main module, as the data name it, the one here? By the stdlib's rules."""
    main: Any = sys.modules["__main__"]
    if (name := told.get("init_main_from_name")) is not None:
        return bool(getattr(getattr(main, "__spec__", None), "name", None) == name)
    path = told.get("init_main_from_path")
    return path is None or bool(getattr(main, "__file__", None) == path)


def _say(status: int, kind: int, pid: int, code: int) -> None:
    try:
        os.write(status, forkserver.STATUS.pack(kind, pid, code))
    except OSError:
        return  # the client has ended


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
