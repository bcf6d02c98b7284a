"""One resource tracker for all processes of a program, started when the first of them needs it.

The stdlib's `resource_tracker` is a process that unlinks the named shared memory (and the stdlib's
semaphores) which a program has left. Whoever has the writing end of its pipe may still use a name;
when the last has ended, however it ended, the tracker reads the end of the file and unlinks. Two of
them in one program do harm: the one that ends first unlinks what processes of the other still use.
And it costs the start of an interpreter, which most programs have no use for.

So the first process that starts a child makes the pipe alone, and a memory file beside it, and all
its descendants get these: what they register is written to the one pipe, and whoever registers while
no tracker is there launches one on the reading end. All keep that end too, so that a tracker which
was killed is followed by another, and what is written meanwhile waits in the pipe.

Whether there is a tracker says the kernel: it holds a record lock on the memory file, which goes
with the process that has it and with no other. A launched tracker that does not get the lock has
lost a race, and ends before it has read anything: it does no harm to launch one too many. The
launcher launches first, makes the name and registers it then, so that no death of its own leaves a
name which nobody unlinks, but for what the stdlib has of that: a process killed in the microseconds
between making a name and registering it. What a killed tracker knew is lost, as in the stdlib, with the same warning.

Where the program has a tracker of the stdlib's already, all get that one's pipe instead; and where
the kernel refuses record locks a tracker is started at once. What the stdlib starts by itself (its
own `Process`, its fork server) asks its `ResourceTracker` for the descriptor, and gets this pipe.
"""

from __future__ import annotations

import os
import stat
import sys

from . import _native
from .noting import RLock, close_all, note
from .on_import import after_import

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Sequence
    from typing import Any

__all__ = ["adopt", "adopt_known", "descriptors", "files", "getfd", "make", "prepare"]

_MODULE = "multiprocessing.resource_tracker"
_USER = "multiprocessing.shared_memory"

# PyInstaller and others know such a command by its start.
_PROGRAM = """\
from multiprocessing.resource_tracker import main
import fcntl, os
try:
    fcntl.lockf({lock}, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    pass
else:
    os.pwrite({lock}, b".", 0)
    main({reader})
"""

_tree: _Tree | None = None
_ready: _Tree | None = None  # of a process for whose children all is prepared but the numbers
_lock: Any = RLock()  # a signal handler may start a process, too


class _Tree:
    """What the processes of a program share: the pipe's ends, and the file that the tracker locks."""

    def __init__(self, writer: int, reader: int, lock: int, files: bytes = b"") -> None:
        self.writer = writer
        self.reader = reader
        self.lock = lock
        self.files = files or self._look()  # what they lead to
        self.launched: int | None = None
        self._launching = False
        self._pid = os.getpid()  # whose these two are

    def _look(self) -> bytes:
        return b"".join([_file(fd) for fd in (self.writer, self.reader, self.lock)])

    def is_whole(self) -> bool:
        """Whether the descriptors are open still: programs close what they do not know."""
        try:
            return self._look() == self.files
        except OSError:
            return False

    def is_written_by(self, fd: int | None) -> bool:
        """Whether `fd` leads to the pipe still."""
        try:
            return fd is not None and self.files.startswith(_file(fd))
        except OSError:
            return False

    def _forget_parents(self) -> None:
        """In a forked child: what its parent has launched is no child of it."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.launched = None
            self._launching = False

    def ensure_tracker(self) -> None:
        """Launches the tracker, if there is none; the caller is the only thread here."""
        self._forget_parents()
        if self._launching or self._is_launched() or _locked(self.lock):
            return
        if os.fstat(self.lock).st_size:
            import warnings

            warnings.warn(
                "resource_tracker: process died unexpectedly, relaunching.  Some resources might leak.", stacklevel=2
            )
        # A finalizer may come by meanwhile: what it says waits in the pipe.
        self._launching = True
        try:
            self.launched = _launch(self.reader, self.lock)
        finally:
            self._launching = False

    def _is_launched(self) -> bool:
        """Whether the one that this process has launched runs, be it that it has no lock yet."""
        if self.launched is None:
            return False
        try:
            pid, _ = os.waitpid(self.launched, os.WNOHANG)
        except ChildProcessError:  # somebody else has reaped it
            pid = self.launched
        if pid:
            self.launched = None
        return not pid


def _file(fd: int) -> bytes:
    file = os.fstat(fd)
    return b"%d %d " % (file.st_dev, file.st_ino)


def _locked(fd: int) -> bool:
    """Whether another process has a lock on that file."""
    import fcntl
    import struct

    form = "hhqqi"  # struct flock, padded as C does
    asked = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(form, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    return bool(struct.unpack(form, asked)[0] != fcntl.F_UNLCK)


def _launch(reader: int, lock: int) -> int:
    """Starts a tracker, which outlives this process; returns its pid."""
    import contextlib
    import signal
    from multiprocessing import spawn, util

    from . import interpreters

    passed = [reader, lock]
    with contextlib.suppress(Exception):  # whatever stands in its place
        passed.append(sys.stderr.fileno())
    executable = os.fsencode(spawn.get_executable())
    flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [executable, *flags, "-c", _PROGRAM.format(reader=reader, lock=lock)]
    # Until it ignores them, which it does before it lets them through.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        return interpreters.start(executable, command, passed)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def make() -> None:
    """Makes what the children that are forked from now on share with this process."""
    if _tree is None:
        _make_whole()


def _make_whole() -> None:
    """The same, and anew if this process's descriptors have been closed."""
    if _tree is not None and _tree.is_whole():
        return
    with _lock:
        if _stdlibs() is None or _tree is not None:
            _make()


def _make() -> None:
    made: list[Any] = []
    try:
        note(made, _native._pipe)
        note(made, _native._data_file, "fastmp:tracker")
        (reader, writer), lock = made
        _locked(lock)  # or the kernel refuses that
        _take(_Tree(writer, reader, lock), made)
    except OSError:
        return
    finally:
        close_all(made)


def descriptors() -> dict[str, int]:
    """Returns what a started interpreter has to inherit and to `adopt`, by the names of the arguments.

    Of a tracker of the stdlib's it is the one descriptor, three times. Where nothing can be made such
    a tracker is started.
    """
    _make_whole()
    if _tree is None:
        return dict.fromkeys(("tracker", "tracker_reader", "tracker_lock"), getfd())
    return {"tracker": _tree.writer, "tracker_reader": _tree.reader, "tracker_lock": _tree.lock}


def getfd() -> int:
    """Returns the writing end for one that gets nothing else: a tracker is started now."""
    _make_whole()
    from multiprocessing import resource_tracker

    fd: int = resource_tracker.getfd()  # type: ignore[assignment]
    return fd


def adopt(tracker: int, tracker_reader: int, tracker_lock: int) -> None:
    """Takes over, in a started process, what its parent has named by `descriptors`."""
    if stat.S_ISFIFO(os.fstat(tracker_lock).st_mode):
        for fd in {tracker_reader, tracker_lock} - {tracker}:
            os.close(fd)
        os.set_inheritable(tracker, False)
        after_import(_MODULE, lambda module: _give(module, tracker))
        return
    for fd in (tracker, tracker_reader, tracker_lock):
        os.set_inheritable(fd, False)
    _take(_Tree(tracker, tracker_reader, tracker_lock))


def _give(module: types.ModuleType, fd: int) -> None:
    module._resource_tracker._fd = fd


def _stdlibs() -> int | None:
    """The descriptor of the tracker that this process has, if it is the stdlib's."""
    module: Any = sys.modules.get(_MODULE)
    return getattr(getattr(module, "_resource_tracker", None), "_fd", None)


def adopt_known(fds: Sequence[int], files: bytes) -> None:
    """The same of a child of the fork server: descriptors in the order of the names, and what they
    lead to, by `files`; of a tracker of the stdlib's there is nothing."""
    if not files or _ready is None:
        adopt(*fds)
        return
    _ready.writer, _ready.reader, _ready.lock = fds
    _ready.files = files
    _take(_ready)


def files() -> bytes:
    """Returns what `descriptors` lead to; nothing of a tracker of the stdlib's."""
    return b"" if _tree is None else _tree.files


def prepare() -> None:
    """In a process that forks others which adopt: what they would have to do each."""
    global _ready
    _ready = _Tree(-1, -1, -1, b"-")
    after_import(_MODULE, _teach)
    after_import(_USER, _be_ready_for)


def _be_ready_for(module: Any) -> None:
    """Lets there be a tracker before there is a name: to launch one takes a while, in which a process
    that is killed would leave what it has made to nobody."""
    made_by = getattr(module, "_posixshmem", None)
    if made_by is not None and not isinstance(made_by, _PosixShm):
        module._posixshmem = _PosixShm(made_by)


class _PosixShm:
    """The stdlib's functions of named memory."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions
        self.shm_unlink = functions.shm_unlink

    def shm_open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            from multiprocessing import resource_tracker

            resource_tracker.ensure_running()
        fd: int = self._functions.shm_open(path, flags, mode)
        return fd

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions, name)


def _take(tree: _Tree, made: list[Any] | None = None) -> None:
    """Has `tree` be the one of this process; its descriptors are those in `made` no more."""
    global _tree
    if made is None:
        made = []
    # No signal handler comes between these.
    _tree = tree
    made.clear()
    if _ready is None or _MODULE in sys.modules:
        after_import(_MODULE, _teach)
    if _ready is None:
        after_import(_USER, _be_ready_for)


def _teach(module: Any) -> None:
    """Lets the stdlib's object, which all that register ask, use the tree's, if there is one."""
    if _tree is None:
        return
    tracker = module._resource_tracker
    if not hasattr(tracker, "_lend"):
        os.register_at_fork(after_in_child=tracker._lock._at_fork_reinit)  # the stdlib does so from 3.14 on
        tracker.__class__ = _class_on(module.ResourceTracker)
        module.ensure_running = tracker.ensure_running
    tracker._lend_pipe()


def _class_on(base: Any) -> Any:
    class ResourceTracker(base):
        """The stdlib's, on the pipe that the whole program shares."""

        _fd: int | None
        _pid: int | None

        def _lend_pipe(self) -> None:
            """Lets what the base class does go to the tree's pipe."""
            # It has been closed by `_stop`, in a child of `os.fork`, or by who closes what it does not
            # know: by now the number may be another file's.
            if not _tree.is_written_by(self._fd):  # type: ignore[union-attr]
                self._fd = _native._beside_standard(os.dup(_tree.writer))  # type: ignore[union-attr]

        def _lend(self) -> None:
            with self._lock:
                _make_whole()
                if _tree is not None:
                    self._lend_pipe()
                    _tree.ensure_tracker()
                    self._pid = _tree.launched

        def ensure_running(self) -> None:
            self._lend()
            super().ensure_running()

        def _check_alive(self) -> bool:  # that is asked before each message, up to 3.13
            self._lend()
            return bool(super()._check_alive())

        def _ensure_running_and_write(self, msg: bytes | None = None) -> None:  # from 3.14 on
            self._lend()
            super()._ensure_running_and_write(msg)

        def _stop(self, *args: Any, **kwargs: Any) -> None:
            """Leaves the pipe to others. The tracker ends with the last of them: nobody waits for it."""
            with self._lock:
                if self._fd is not None:
                    os.close(self._fd)
                self._fd = self._pid = None

        def __del__(self) -> None:
            """When a process ends there is nothing to be done."""

    return ResourceTracker


# By C alone: what each child costs are the pages that it touches.
os.register_at_fork(after_in_child=_lock._at_fork_reinit)
