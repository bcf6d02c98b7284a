"""Every OSError tells its number, and what the system says of it."""

import errno
import os

import pytest
from children import usage


def told(error):
    assert error.errno is not None
    assert error.strerror
    assert error.args == (error.errno, error.strerror)
    return error.errno


@pytest.mark.parametrize("kind", ["Queue", "Pipe", "Process"])
def test_descriptors_used_up(mp, kind, crew):
    mine, yours = mp.Pipe()
    crew.run(usage.make_until_refused, mp.get_start_method(), kind, yours, type(mp).__module__.partition(".")[0])
    name, number, text = mine.recv()
    assert (name, number, text) == ("OSError", errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_impossible_permits(mp, kind):
    with pytest.raises(OSError) as refusal:
        getattr(mp, kind)(-1)
    assert told(refusal.value) == errno.EINVAL
    assert refusal.value.strerror == os.strerror(errno.EINVAL)


def test_the_other_end_is_closed(mp):
    mine, yours = mp.Pipe()
    yours.close()
    with pytest.raises(BrokenPipeError) as refusal:
        mine.send(1)
    assert told(refusal.value) == errno.EPIPE
    assert refusal.value.strerror == os.strerror(errno.EPIPE)


@pytest.mark.fastmp_only("the stdlib's have a text alone")
def test_what_the_stdlib_has_no_number_for(mp):
    receives, sends = mp.Pipe(duplex=False)
    cases = [
        (lambda: receives.send(1), errno.EBADF, "connection is read-only"),
        (lambda: sends.recv(), errno.EBADF, "connection is write-only"),
        (lambda: sends.poll(), errno.EBADF, "connection is write-only"),
    ]
    sends.send_bytes(b"too long")
    cases += [(lambda: receives.recv_bytes(2), errno.EMSGSIZE, "bad message length")]
    both, other = mp.Pipe()
    both.close()
    uses = (both.fileno, both.recv, both.poll, both.recv_bytes, lambda: both.send(1), lambda: both.send_bytes(b"1"))
    cases += [(use, errno.EBADF, "handle is closed") for use in uses]
    reader = mp.Queue()._reader
    reader.close()
    cases += [(use, errno.EBADF, "handle is closed") for use in (reader.fileno, reader.recv, reader.poll)]
    for use, number, text in cases:
        with pytest.raises(OSError) as refusal:
            use()
        assert told(refusal.value) == number
        assert refusal.value.strerror == text
    other.close()
