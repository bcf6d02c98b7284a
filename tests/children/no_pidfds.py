"""Preloaded by a fork server: as if the kernel had no pidfds."""

from fastmp import _native, forkserver, popen


def tell_started(line, number, pid):
    _native._send_packet(line, forkserver.HEAD.pack(forkserver.STARTED, number, pid), ())


popen.open_pidfd = lambda pid: None
forkserver.tell_started = tell_started
