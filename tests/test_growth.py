"""An unbounded queue grows as long as nobody reads, and gives the memory back when somebody has."""

import contextlib
import platform
import subprocess
import sys
import threading
import time
from queue import Empty

import endurance
import pytest
from children import queues, usage
from children.common import wait_until

pytestmark = pytest.mark.fastmp_only("the stdlib buffers in its own process")
MIB = 1 << 20


def left_at_rest(queue, before):
    """Shared bytes that are left when the queue has not been used for a second, and somebody waits.

    A channel at rest keeps 8 MiB, and the ring's first MiB.
    """
    time.sleep(1.2)
    with contextlib.suppress(Empty):
        queue.get(timeout=0.5)
    return usage.shared_bytes() - before


@pytest.mark.method("fork")
def test_many_puts_without_a_reader(mp):
    queue, count = mp.Queue(), 200_000
    before = usage.shared_bytes()
    for i in range(count):
        queue.put((i, "x" * 100))
    assert queue.qsize() == count
    assert not queue.full()
    peak = usage.shared_bytes() - before
    assert peak > count * 100  # it is in shared memory, and not in this process
    for i in range(count):
        assert queue.get() == (i, "x" * 100)
    assert queue.empty()
    left = left_at_rest(queue, before)
    print(f"peak {peak / MIB:.1f} MiB, left {left / MIB:.1f} MiB")
    assert left < min(peak, 10 * MIB)


def test_a_child_puts_without_a_reader(mp, crew):
    queue, count, size = mp.Queue(), 200_000, 200
    before = usage.shared_bytes()
    crew.run(queues.put_pattern, queue, count, size)
    assert queue.qsize() == count
    queues.take_pattern(queue, count // 2, size)
    # This process has the file that the child made since it came to what is in there.
    peak = usage.shared_bytes() - before
    assert peak > count // 2 * size
    queues.take_pattern(queue, count // 2, size, first=count // 2)
    left = left_at_rest(queue, before)
    print(f"peak {peak / MIB:.1f} MiB, left {left / MIB:.1f} MiB")
    assert left < min(peak, 10 * MIB)


@pytest.mark.method("fork")
def test_large_messages_without_a_reader(mp):
    queue = mp.Queue()
    before = usage.shared_bytes()
    for i in range(20):
        queue.put(bytes([i]) * (8 * MIB))
    peak = usage.shared_bytes() - before
    assert peak >= 160 * MIB
    for i in range(20):
        assert queue.get() == bytes([i]) * (8 * MIB)
    left = usage.shared_bytes() - before
    print(f"peak {peak / MIB:.1f} MiB, left {left / MIB:.1f} MiB")
    assert left < peak / 4


def test_waves(mp, crew):
    """Growing and draining by turns, the two sides in two processes, takes what one wave may need.

    How far one side gets ahead of the other is chance: a wave has three chunks of 1 MiB in each queue
    at most, beside one that is written, one that is read and the ring's first. What is forgotten in
    each wave would be a chunk at least.
    """
    before = usage.shared_bytes()  # earlier channels may have left some in the segments of this process
    inbox, outbox = mp.Queue(), mp.Queue()
    crew.start(queues.echo, inbox, outbox)
    sizes = []
    for wave in range(24):
        items = [(wave, i, b"y" * (i % 700)) for i in range(5000)]
        for item in items:
            inbox.put(item)
        queues.wait_for_size(outbox, len(items))
        assert [outbox.get() for _ in items] == items
        sizes.append(usage.shared_bytes() - before)
    inbox.put(None)
    crew.join()
    print([f"{size / MIB:.1f}" for size in sizes])
    assert max(sizes) <= 2 * (3 + 3) * MIB


@pytest.mark.method("fork")
def test_qsize_never_lies_while_it_grows(mp):
    queue, count = mp.Queue(), 30_000
    putter = threading.Thread(target=queues.put_all, args=(queue, range(count)))
    putter.start()
    taken, largest = 0, 0
    while taken < count:
        size = queue.qsize()
        assert 0 <= size <= count - taken
        largest = max(largest, size)
        if size:
            assert queue.get(False) == taken
            taken += 1
    putter.join()
    assert queue.qsize() == 0


@pytest.mark.method("fork")
def test_memory_refused_is_an_error_and_no_more(mp, crew):
    outcome = mp.RawValue("i")
    crew.run(queues.put_beyond_the_limit, outcome)
    wait_until(lambda: outcome.value)
    assert outcome.value == 1


@pytest.mark.method("fork")
def test_days_of_traffic(mp):
    """Between bursts of 20 MB as if 2^28 messages went through a queue that is never empty."""
    shapes = {shape: endurance.SHAPES[shape] for shape in ("1 of 20 MB", "300 of 67 KB", "400 of 50 KB", "mixed")}
    _, _, seen = endurance.run(mp, 2.0, shapes)
    print(*seen, sep="\n")
    assert not endurance.risen(seen)


# Of a program's own: this one's heap has been through much.
NEW_PAGES = """
import resource
import fastmp

def pass_on(count):
    for _ in range(count):
        queue.put(message)
        held.append(queue.get())
        del held[: -keep or None]

for size in (70_000, 100_000, 131_000, 150_000):
    for keep in (0, 1, 3):
        queue, message, held = fastmp.Queue(), b"x" * size, []
        pass_on(20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        pass_on(100)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        print(size, keep, faults)
        assert faults < 100
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="musl's malloc gives large blocks back each time")
@pytest.mark.method("fork")
def test_messages_above_64_kib_take_no_new_pages(mp, tmp_path):
    """Neither in shared memory nor on the receiver's heap, however many it holds at a time."""
    found = subprocess.run([sys.executable, "-c", NEW_PAGES], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
