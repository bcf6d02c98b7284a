"""How handles travel: each end that a process receives has descriptors of its own, whatever started
the process.
"""

import importlib
import os
import resource

import fastmp
import pytest
from children import ends
from children.common import wait_until

STARTS = ["fastmp-fork", "fastmp-spawn", "multiprocessing-spawn", "multiprocessing-forkserver"]


@pytest.fixture(params=STARTS)
def start(request):
    """Starts a child in one of the ways that fastmp's objects travel by, and expects that it ends
    well.
    """
    module, method = request.param.split("-")
    process = importlib.import_module(module).get_context(method).Process
    started = []

    def go(target, *args):
        started.append(process(target=target, args=args))
        started[-1].start()

    yield go
    for one in started:
        one.join()
        assert one.exitcode == 0


@pytest.mark.parametrize("nested", [False, True])
def test_closing_one_end_leaves_the_other(start, nested):
    mine, yours = fastmp.Pipe()
    pairs = [fastmp.Pipe() for _ in range(3)]
    queue, lock, log = fastmp.Queue(), fastmp.Lock(), fastmp.Value("i", lock=False)
    theirs = [second for _, second in pairs]
    # `mine` goes along as well: the child closes it, and the parent's is not touched.
    start(ends.keep_one_end, yours, mine, queue, ends.Nested(*theirs) if nested else theirs, lock, log)
    yours.close()
    for _, second in pairs:
        second.close()
    assert mine.recv() == b"sent" * 100_000
    mine.send(b"received" * 100_000)
    for first, _ in pairs:
        assert first.recv() == "here"
        with pytest.raises(EOFError):
            first.recv()
    with pytest.raises(EOFError):
        mine.recv()
    wait_until(lambda: log.value == 1, "the child's end")


def test_a_child_with_both_ends_sees_the_end_of_file(start):
    reader, writer = fastmp.Pipe(False)
    log = fastmp.Value("q", lock=False)
    start(ends.end_of_file, reader, writer, log)
    reader.close()
    for size in (10, 100_000, 1_000_000):
        writer.send(b"x" * size)
    writer.close()
    wait_until(lambda: log.value == -1_100_010, "the end of file")


@pytest.mark.parametrize("start", STARTS[1:], indirect=True)
def test_closing_closes_all_that_was_given(start):
    log = fastmp.Value("i", lock=False)
    start(ends.close_all, [end for _ in range(5) for end in fastmp.Pipe()], log)
    wait_until(lambda: log.value, "the child's count")
    assert log.value == 1


@pytest.mark.parametrize("way", ["pipe", "queue"])
def test_both_ends_in_one_message(way):
    channel = fastmp.Queue()
    send, receive = channel.put, channel.get
    if way == "pipe":
        one, other = fastmp.Pipe()
        send, receive = one.send, other.recv
    pair = fastmp.Pipe()
    shared = fastmp.Queue()
    send([pair, ends.Twice(pair[0]), ends.Twice(shared), fastmp.Lock(), fastmp.Value("i", 7)])
    for end in pair:
        end.close()
    (left, right), (again, once_more), queues, lock, value = receive()
    again.close()
    once_more.send(b"x" * 200_000)
    assert right.recv() == b"x" * 200_000
    once_more.close()
    left.close()
    with pytest.raises(EOFError):
        right.recv()
    right.close()
    queues[0].close()
    ends.use("queue", queues[1])
    ends.use("lock", lock)
    assert value.value == 7


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_temporary_is_lent_until_the_child_is_started(method):
    """Its number would be another file's by then, or nobody's."""
    traveller = ends.Temporary(fastmp.Pipe)
    child = fastmp.get_context(method).Process(target=ends.send_through, args=(traveller,))
    child.start()
    assert traveller.other.recv() == "through"
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("start", STARTS[1:], indirect=True)
def test_two_objects_over_one_handle(start):
    """They are two in the child: each has its own, also where one is in a pickle of its own."""
    left, right = fastmp.Pipe()
    log = fastmp.Value("i", lock=False)
    again = [ends.copy_of(right), ends.Nested(right)]
    start(ends.use_the_first, right, again, log)
    right.close()
    for _ in range(2):
        assert left.recv() == b"sent" * 100_000
        left.send(b"received" * 100_000)
    with pytest.raises(EOFError):
        left.recv()


@pytest.mark.parametrize("start", STARTS[1:], indirect=True)
def test_many_blocks_cost_a_child_few_descriptors(start):
    """However many locks a child is given, they come by the descriptors of their segments and
    tokens.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    locks = [fastmp.Lock() for _ in range(500)]
    log = fastmp.Value("i", lock=False)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 60, hard))
    try:
        start(ends.count_descriptors, locks, log)
        wait_until(lambda: log.value, "the child's count")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert log.value < 80
