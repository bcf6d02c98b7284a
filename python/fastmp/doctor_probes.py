"""The doctor's probes: each tries one thing that fastmp needs, or uses where it can."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import sys
import time
import warnings

import fastmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PROBES", "Degraded", "Missing", "Unknown"]

PAGE = mmap.PAGESIZE
PATIENCE = 20.0  # seconds for a child that does nothing


class Missing(Exception):
    """What is needed is not there."""


class Degraded(Exception):
    """Something that has a fallback is not there."""


class Unknown(Exception):
    """It could not be tried."""


@contextlib.contextmanager
def _memfd(flags: int = os.MFD_ALLOW_SEALING) -> Iterator[int]:
    fd = os.memfd_create("fastmp-doctor", os.MFD_CLOEXEC | flags)
    try:
        yield fd
    finally:
        os.close(fd)


def _memory() -> None:
    try:
        with _memfd() as fd:
            os.posix_fallocate(fd, 0, PAGE)
            with mmap.mmap(fd, PAGE) as one, mmap.mmap(fd, PAGE) as other:
                one[0] = 7
                if other[0] != 7:
                    raise Missing("two mappings of a memfd do not share their memory")
    except OSError as error:
        raise Missing(f"memfd_create, posix_fallocate or mmap: {error}") from None


def _seals() -> None:
    with _memfd() as fd:
        os.ftruncate(fd, PAGE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        try:
            os.ftruncate(fd, 0)
        except PermissionError:
            return
    raise Degraded("a sealed memfd was made shorter")


def _holes() -> None:
    with _memfd() as fd:
        os.ftruncate(fd, 1 << 40)
        if os.fstat(fd).st_blocks:
            raise Degraded("a file's hole takes memory")


def _futex() -> str:
    event = fastmp.Event()
    begin = time.monotonic()
    event.wait(0.05)
    if time.monotonic() - begin < 0.04:
        raise Missing("a wait ended before its time")
    with _child(event.wait, PATIENCE) as pid:
        time.sleep(0.02)
        begin = time.monotonic()
        event.set()
        code = _reap(pid)
    if code != 0:
        raise Missing("a process that waited was not woken")
    return f"a process was woken in {(time.monotonic() - begin) * 1e3:.1f} ms, its end included"


@contextlib.contextmanager
def _child(function: Callable[..., object], *arguments: object) -> Iterator[int]:
    """A forked child that runs the function, and ends with 0 if that returns what is true."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = int(not function(*arguments))
        finally:
            os._exit(code)
    try:
        yield pid
    finally:
        with contextlib.suppress(OSError):  # it has been waited for
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _sleep() -> bool:
    time.sleep(PATIENCE)
    return True


def _proc() -> None:
    """As the core looks at it: it must be of this very pid namespace."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line)
    numbers = lines.get("NSpid", lines["Pid"]).split()
    if numbers != [str(os.getpid())]:
        raise Degraded(f"/proc is of another pid namespace: this process is {os.getpid()}, there {numbers}")
    if not os.path.exists("/proc/self/fd"):
        raise Degraded("there is no /proc/self/fd")


def _pidfd() -> None:
    with _child(_sleep) as pid:
        fd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if poll.poll(0):
                raise Degraded("a pidfd says of a living process that it has ended")
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            if not poll.poll(PATIENCE * 1000):
                raise Degraded("a pidfd does not tell of the end")
            os.waitid(os.P_PIDFD, fd, os.WEXITED)
        finally:
            os.close(fd)


def _leases() -> None:
    """As `sys/lease.rs`: is a file known to be open for writing, and known not to be any more?"""
    with _memfd() as fd:
        path = f"/proc/self/fd/{fd}"
        writer = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(writer)
            raise
    try:
        try:
            fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
        else:
            raise Degraded("a lease was given on a file that is open for writing")
        finally:
            os.close(writer)
        fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        os.close(reader)


def _descriptors() -> None:
    """A descriptor in a message, looked at before it is taken."""
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sending, receiving, _memfd() as fd:
        socket.send_fds(sending, [b"."], [fd])
        receiving.setblocking(False)
        _receive_twice(receiving, fd)


def _receive_twice(receiving: socket.socket, fd: int) -> None:
    for flags in (socket.MSG_PEEK, 0):
        # Not by recv_fds, which ignores flags.
        _, ancillary, _, _ = receiving.recvmsg(1, socket.CMSG_SPACE(4), flags | socket.MSG_CMSG_CLOEXEC)
        fds = [int.from_bytes(data[:4], sys.byteorder) for _, _, data in ancillary]
        for each in fds:
            same = os.path.sameopenfile(fd, each)
            os.close(each)
            if not same:
                raise Missing("another file was received than was sent")
        if len(fds) != 1:
            raise Missing("a descriptor was lost in a socket")


def _from_outside() -> str:
    """Whether a process of the same user may look at what another shares."""
    with _memfd() as fd:
        os.ftruncate(fd, PAGE)
        os.pwrite(fd, b"seen", 0)
        with _child(_sleep) as pid, open(f"/proc/{pid}/fd/{fd}", "rb") as theirs:
            if theirs.read(4) != b"seen":
                raise Degraded("another process's memory file is not what it seems")
    scope = _read("/proc/sys/kernel/yama/ptrace_scope")
    return f"of one's own children; kernel.yama.ptrace_scope is {scope}" if scope else ""


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


def _start(method: str) -> Callable[[], str]:
    def probe() -> str:
        begin = time.monotonic()
        try:
            process = fastmp.get_context(method).Process(target=time.sleep, args=(0,))
            process.start()
        except Exception as error:
            raise Missing(f"{type(error).__name__}: {error}") from None
        process.join(PATIENCE)
        if process.exitcode != 0:
            process.kill()
            raise Missing(f"a child that does nothing ended with {process.exitcode}")
        return f"a child started and ended in {(time.monotonic() - begin) * 1e3:.0f} ms"

    return probe


def _recovery() -> str:
    """The whole promise: a lock whose holder is killed is free again."""
    lock, held = fastmp.Lock(), fastmp.Event()

    def hold() -> bool:
        lock.acquire()
        held.set()
        return _sleep()

    with _child(hold) as pid:
        if not held.wait(PATIENCE):
            raise Unknown("the child did not take the lock")
        os.kill(pid, signal.SIGKILL)
        begin = time.monotonic()
        os.waitpid(pid, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fastmp.OwnerDiedWarning)
            if not lock.acquire(timeout=5):
                raise Missing("a lock stayed held by a process that was killed")
    return f"after {(time.monotonic() - begin) * 1e3:.0f} ms"


# What it is, what tries it, and what is done where there is none.
PROBES: list[tuple[str, Callable[[], str | None], str]] = [
    ("shared memory (memfd)", _memory, "nothing works"),
    ("waiting and waking (futex)", _futex, "nothing works"),
    ("seals", _seals, "a process of the program could make shared memory shorter, and kill the others by SIGBUS"),
    ("files with holes", _holes, "queues take more memory"),
    ("descriptors in sockets (SCM_RIGHTS)", _descriptors, "large messages, and objects in messages, do not arrive"),
    ("/proc", _proc, "deaths are proved by ESRCH, by waiting for children, and by pidfds; shared memory returns later"),
    ("pidfd", _pidfd, "the ends of children are told by pipes"),
    ("leases", _leases, "what has been sent to another process is kept while its maker lives"),
    ("start method fork", _start("fork"), "that start method cannot be used"),
    ("start method spawn", _start("spawn"), "that start method cannot be used"),
    ("start method forkserver", _start("forkserver"), "that start method cannot be used"),
    ("a killed holder's lock", _recovery, "a killed process blocks the others"),
    ("reading from outside", _from_outside, "other processes cannot be shown what is in shared memory"),
]
