"""Join first, read later: what was put is in shared memory, and whoever put it may be gone."""

import pytest
from children import pipes, queues

pytestmark = pytest.mark.fastmp_only("joining a process before its queue is drained deadlocks there")
MIB = 1 << 20


@pytest.mark.parametrize(("count", "size"), [(100, MIB), (1, 100 * MIB), (100_000, 1000)])
def test_join_before_reading_100_mb(mp, crew, count, size):
    queue = mp.Queue()
    crew.start(queues.put_pattern, queue, count, size)
    crew.join()
    assert queue.qsize() == count
    queues.take_pattern(queue, count, size)
    assert queue.empty()


def test_join_before_reading_from_many(mp, crew):
    queue, ready = mp.Queue(), mp.RawArray("b", 4)
    for me in range(4):
        crew.start(queues.produce, queue, me, 5000, ready)
    crew.join()
    assert queue.qsize() == 20_000
    got = [queue.get() for _ in range(20_000)]
    assert queue.empty()
    for me in range(4):
        assert [i for producer, i in got if producer == me] == list(range(5000))


def test_close_and_join_thread_wait_for_nobody(mp):
    queue = mp.Queue()
    for _ in range(100):
        queue.put(b"x" * 100_000)
    queue.close()
    queue.join_thread()
    queue.cancel_join_thread()


def test_join_before_receiving(mp, crew):
    reader, writer = mp.Pipe(False)
    items = [b"x" * 1000, [1, 2, 3], "text"]
    crew.start(pipes.send_all, writer, items)
    writer.close()
    crew.join()
    assert [reader.recv() for _ in items] == items
    with pytest.raises(EOFError):
        reader.recv()
