"""Processes that cannot be looked at, or cannot look: other users, other namespaces, no /proc, no
descriptors left.
"""

import ctypes
import os
import resource
import sys
import warnings

from children.common import wait_until

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
MS_REC, MS_PRIVATE = 0x4000, 0x4_0000
NOBODY = 65534
NOT_PERMITTED = 77  # the exit code that says so

_libc = ctypes.CDLL(None, use_errno=True)


def _call(result):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _unshare(flags):
    """Into namespaces of its own; without privileges by way of a user namespace."""
    user, group = os.getuid(), os.getgid()
    try:
        _call(_libc.unshare(flags))
    except PermissionError:
        _call(_libc.unshare(flags | CLONE_NEWUSER))
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _mount(source, target, kind, flags=0, data=None):
    _call(_libc.mount(source, target, kind, flags, data))


def _own_mounts():
    _unshare(CLONE_NEWNS)
    _mount(b"none", b"/", None, MS_REC | MS_PRIVATE)


def _hide_proc():
    _own_mounts()
    _mount(b"tmpfs", b"/proc", b"tmpfs")
    assert not os.path.exists("/proc/self")


def _become_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _hide_processes_of_others():
    _own_mounts()
    _mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2")
    _become_nobody()
    assert not os.path.exists(f"/proc/{os.getppid()}/stat")


def _own_pids():
    """The rest runs in a child, which is number 1 of a namespace of its own."""
    _unshare(CLONE_NEWPID)
    pid = os.fork()
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert os.getpid() == 1


def _own_pids_and_proc():
    _own_pids()
    _own_mounts()
    _mount(b"proc", b"/proc", b"proc")
    assert os.readlink("/proc/self") == "1"


def _proc_of_others():
    """A /proc of a namespace of which this process is no part, and of which nobody is left."""
    _own_mounts()
    middle = os.fork()
    if middle == 0:
        _unshare(CLONE_NEWPID)
        if os.fork() == 0:
            _mount(b"proc", b"/proc", b"proc")
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(middle, 0)[1]) == 0
    assert not os.path.exists("/proc/self")


def _other_root():
    # Any folder will do.
    os.chroot(os.path.dirname(__file__))
    os.chdir("/")
    assert not os.path.exists("/proc")


def _other_root_and_nothing_open():
    _other_root()
    os.closerange(3, 4096)


def _no_descriptors():
    limit = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    try:
        while True:
            os.dup(0)
    except OSError:
        pass


def _little_shm():
    _own_mounts()
    _mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=4k")


PLACES = {
    "other user": _become_nobody,
    "hidden proc": _hide_proc,
    "hidepid": _hide_processes_of_others,
    "pid namespace": _own_pids,
    "pid namespace with its proc": _own_pids_and_proc,
    "proc of others": _proc_of_others,
    "other root": _other_root,
    "other root, nothing open": _other_root_and_nothing_open,
    "no descriptors": _no_descriptors,
    "little shm": _little_shm,
}
WAYS = [way for way in PLACES if way != "little shm"]  # in which it may be hard to see, or to be seen


# In which a pid is the same process as everywhere, however hard to see.
SAME_PIDS = [way for way in WAYS if "namespace" not in way]


def enter(way):
    """Goes there, or ends this process with the code that says that it may not."""
    try:
        PLACES[way]()
    except PermissionError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_PERMITTED)


def find_it_held(lock, way, place, seen):
    """Waits for a lock whose holder lives, through several looks at it, and then gets it as anybody
    would.
    """
    enter(way)
    warnings.simplefilter("error")
    place.value = 1
    assert lock.acquire(False) is False
    assert lock.acquire(True, 0.6) is False
    assert lock.recoveries == 0
    seen.value = 1
    assert lock.acquire() is True
    assert lock.recoveries == 0
    lock.release()


def hold_there(lock, way, held, go):
    enter(way)
    assert lock.acquire()
    held.value = 1
    wait_until(lambda: go.value)
    lock.release()


def find_it_dead(lock, way, place, seen):
    """Waits for a lock whose holder is killed meanwhile."""
    enter(way)
    warnings.simplefilter("ignore")
    place.value = 1
    assert lock.acquire() is True
    assert lock.recoveries == 1
    seen.value = 1
    lock.release()


def put_and_get(queue, way, count):
    """Uses a queue from there, while others use it from elsewhere."""
    enter(way)
    for i in range(count):
        queue.put(i)
        queue.get()
