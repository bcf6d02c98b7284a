"""Loans: what arrives in a large message stays where it is, for as long as somebody looks at it."""

import asyncio
import contextlib
import gc
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from multiprocessing import BufferTooShort

import pytest
from children import loans, objects, usage
from children.common import wait_until
from children.loans import is_lent, is_numbered, numbered

numpy = pytest.importorskip("numpy")

pytestmark = [pytest.mark.fastmp_only("the stdlib copies"), pytest.mark.method("fork")]
MIB = 1 << 20
# In a near place of the channel's file, in a far one, and with many pages.
SIZES = pytest.mark.parametrize("size", [80_000, MIB, 12 * MIB])
SECONDS = float(os.environ.get("FASTMP_TEST_LOANS", "3"))


@pytest.fixture
def queue(mp):
    return mp.Queue()


def through(queue, item):
    queue.put(item)
    return queue.get()


def segment():
    """Bytes in the memory file of the only queue here."""
    return sum(status.st_blocks * 512 for status in usage.files("fastmp-queue"))


# ---- what is lent


@SIZES
def test_an_array_is_a_writable_view(queue, size):
    got = through(queue, numbered(1, size))
    assert is_lent(got)
    assert got.flags.writeable and got.flags.aligned and got.flags.c_contiguous
    assert is_numbered(got, 1)
    got += 1
    other = through(queue, numbered(2, size))
    assert is_lent(other) and not numpy.shares_memory(got, other)
    other[:] = 0
    assert (got == numbered(1, size) + 1).all()


@pytest.mark.parametrize("kind", ["pipe", "duplex", "simple", "joinable"])
def test_through_every_channel(mp, kind):
    if kind in ("pipe", "duplex"):
        reader, writer = mp.Pipe(kind == "duplex")
        put, get = writer.send, reader.recv
    else:
        queue = mp.SimpleQueue() if kind == "simple" else mp.JoinableQueue()
        put, get = queue.put, queue.get
    held = []
    for number in range(10):
        put(numbered(number))
        held.append(get())
    assert all(map(is_lent, held))
    assert all(is_numbered(array, number) for number, array in enumerate(held))


@SIZES
@pytest.mark.method("fork", "spawn")
def test_between_processes(mp, crew, size):
    inbox, outbox = mp.Queue(), mp.Queue()
    crew.start(loans.echo_sums, inbox, outbox)
    for number in range(12):
        inbox.put(numbered(number, size))
        total, got = outbox.get()
        assert total == numbered(number, size).sum()
        assert is_lent(got)
        assert (got == numbered(number, size) + 1).all()
    inbox.put(None)
    crew.join()


def next_addresses(queue, count=4):
    """Where the next arrays lie that are held at a time."""
    held = [through(queue, numbered(number)) for number in range(count)]
    return {array.ctypes.data for array in held}


def test_memory_is_used_again_when_the_last_view_dies(queue):
    got = through(queue, numbered(0))
    address, part = got.ctypes.data, got[1000:2000:7]
    expected = part.copy()
    del got
    assert address not in next_addresses(queue)
    assert (part == expected).all()
    view = memoryview(part)
    del part
    assert address not in next_addresses(queue)
    view.release()
    del view
    assert address in next_addresses(queue, 8)


def test_any_order_of_returns(queue):
    choice, held = random.Random(5), []
    for number in range(300):
        size = choice.choice([70_000, 300_000, MIB, 3 * MIB])
        held.append((number, through(queue, numbered(number, size // 8 * 8))))
        assert is_lent(held[-1][1])
        while len(held) > choice.randrange(12):
            number, array = held.pop(choice.randrange(len(held)))
            assert is_numbered(array, number)
            array[:] = -1
    assert all(is_numbered(array, number) for number, array in held)


def test_shapes_and_types(queue):
    record = numpy.zeros(20_000, dtype=[("a", "i4"), ("b", "f8")])
    record["b"] = numpy.arange(20_000)
    matrix = numpy.arange(100_000, dtype="f4").reshape(100, 1000)
    frozen = matrix.copy()
    frozen.flags.writeable = False
    for item in (record, matrix, numpy.asfortranarray(matrix), matrix.reshape(10, 10, 1000), frozen):
        got = through(queue, item)
        assert is_lent(got)
        assert (got.dtype, got.shape, got.strides) == (item.dtype, item.shape, item.strides)
        assert got.flags.writeable
        assert (got == item).all()


def test_of_a_message_with_many_arrays_the_large_ones(queue):
    item = {"image": numbered(1, 4 * MIB), "mask": numbered(2, MIB), "label": numpy.arange(9_000), "name": "x"}
    got = through(queue, item)
    assert [is_lent(got[name]) for name in ("image", "mask", "label")] == [True, True, False]
    assert is_numbered(got["image"], 1) and is_numbered(got["mask"], 2) and (got["label"] == item["label"]).all()
    # One of a hundred would keep the rest.
    many = through(queue, [numbered(number, 100_000) for number in range(100)])
    assert not any(map(is_lent, many))
    assert all(is_numbered(array, number) for number, array in enumerate(many))
    few = through(queue, [numbered(number, 100_000) for number in range(10)])
    assert all(map(is_lent, few))
    same = numbered(3)
    got = through(queue, [same, {"again": same}])
    assert got[0] is got[1]["again"]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
@pytest.mark.parametrize("box", [objects.Buffered, objects.BufferedState])
def test_buffers_of_other_classes_come_as_what_they_were(queue, kind, box):
    content = os.urandom(200_000)
    got = through(queue, box(kind(bytearray(content)))).data
    assert type(got) is kind
    assert got == content
    got[0] = 5
    assert bytes(got[:3]) == b"\x05" + content[1:3]


def test_a_pickle_that_uses_one_buffer_twice(queue):
    class Twice:
        def __reduce_ex__(self, protocol):
            buffer = pickle.PickleBuffer(numbered(1))
            return objects.pair, (buffer, buffer)

    first, second = through(queue, Twice())
    assert bytes(first) == bytes(second) == numbered(1).tobytes()


def test_in_batches_and_tasks(queue):
    queue.put_many([numbered(number) for number in range(3)])
    got = queue.get_many(3)
    assert all(is_numbered(array, number) and is_lent(array) for number, array in enumerate(got))

    async def one():
        await queue.put_async(numbered(7))
        return await queue.get_async()

    got = asyncio.run(one())
    assert is_numbered(got, 7) and is_lent(got)


def test_a_broadcast_is_copied_for_each(mp):
    broadcast = mp.Broadcast()
    readers = [broadcast.reader() for _ in range(2)]
    broadcast.send(numbered(1))
    first, second = (reader.recv() for reader in readers)
    first[:] = 0
    assert is_numbered(second, 1)


def test_what_is_lent_goes_on(mp, queue):
    other = mp.Queue()
    array = through(queue, numbered(1))
    for _ in range(5):
        again = through(other, array)
        assert is_lent(again) and is_numbered(again, 1)
        array = through(queue, again)
    assert is_numbered(array, 1)


# ---- how much


def test_a_bound_on_bytes_is_one_on_what_is_unread(mp):
    queue = mp.Queue(max_bytes=3 * MIB)
    held = [through(queue, numbered(number)) for number in range(20)]
    assert all(map(is_lent, held))
    assert queue.stats().bytes_in > 20 * MIB
    queue.put(numbered(0, 2 * MIB), timeout=0)
    assert all(is_numbered(array, number) for number, array in enumerate(held))


def test_thousands_are_held(queue):
    held = [through(queue, numbered(number, 72_000)) for number in range(3000)]
    assert all(is_numbered(array, number) for number, array in enumerate(held))
    del held
    before = usage.look()
    for _ in range(3):
        held = [through(queue, numbered(number, 72_000)) for number in range(200)]
        del held
    after = usage.look()
    assert after["mappings"] <= before["mappings"] + 60
    assert after["descriptors"] == before["descriptors"]


def test_flat(mp):
    def cycle(times):
        for number in range(times):
            queue, (reader, writer) = mp.Queue(), mp.Pipe(False)
            writer.send(numbered(number))
            kept = [through(queue, numbered(number)), reader.recv()]
            if number % 2:
                queue.close()
                reader.close()
                writer.close()
                assert is_numbered(kept[0], number) and is_numbered(kept[1], number)

    cycle(20)
    before = usage.look()
    cycle(200)
    after = usage.look()
    print(before, after, sep="\n")
    assert after["descriptors"] <= before["descriptors"] + 4
    assert after["mappings"] <= before["mappings"] + 4
    assert after["shared bytes"] <= before["shared bytes"] + MIB
    assert after["resident bytes"] <= before["resident bytes"] + 16 * MIB


def test_what_returns_is_kept_within_bounds(queue):
    held = [through(queue, numbered(number, 8 * MIB)) for number in range(20)]
    assert segment() >= 160 * MIB
    held.clear()
    assert segment() <= 42 * MIB
    # Idle, it gives back what is left, as ever.
    time.sleep(1.1)
    with contextlib.suppress(Exception):
        queue.get(timeout=0.5)
    assert segment() <= 12 * MIB


# ---- closing


def test_a_loan_outlives_its_channel(mp):
    # The segments that all channels share.
    for channels in [(mp.Queue(), *mp.Pipe()) for _ in range(4)]:
        for channel in channels:
            channel.close()
    del channels, channel
    before = usage.descriptors()
    for ending in ("close", "drop"):
        queue, (reader, writer) = mp.Queue(), mp.Pipe()
        writer.send(numbered(1))
        arrays = [through(queue, numbered(0)), reader.recv()]
        if ending == "close":
            for channel in (queue, reader, writer):
                channel.close()
        else:
            del queue, reader, writer
        assert usage.descriptors() == before
        assert all(map(is_lent, arrays))
        assert [is_numbered(array, number) for number, array in enumerate(arrays)] == [True, True]
        for array in arrays:
            array[:] = 3
        del arrays, array


def test_what_returns_after_closing_is_given_back_to_others(mp, crew, queue):
    told = mp.RawValue("i")
    queue.put(numbered(0, 12 * MIB))
    crew.start(loans.get_after_close, queue, told)
    wait_until(lambda: told.value)
    assert told.value == 3
    assert segment() >= 12 * MIB
    told.value = 10
    wait_until(lambda: told.value == 11)
    assert segment() < MIB
    told.value = 12
    crew.join()


@pytest.mark.parametrize("kind", ["queue", "pipe"])
def test_a_small_array_keeps_nothing_of_a_closed_channel(mp, kind):
    """Neither what was kept for the next message, nor what nobody has read."""
    if kind == "queue":
        channel = mp.Queue()
        ends, put, get = [channel], channel.put, channel.get
    else:
        ends = reader, writer = mp.Pipe(False)
        put, get = writer.send, reader.recv
    put(numbered(1, 80_000))
    array = get()
    assert is_lent(array)
    for number in range(3):
        put(numbered(number, 5 * MIB))  # a pipe takes no more while 16 are unread
    file = os.dup(next(fd for fd in map(int, os.listdir("/proc/self/fd")) if usage.is_file(fd, f"fastmp-{kind}")))
    try:
        assert os.fstat(file).st_blocks * 512 >= 15 * MIB
        for end in ends:
            end.close()
        assert os.fstat(file).st_blocks * 512 < MIB
        assert is_lent(array) and is_numbered(array, 1)
    finally:
        os.close(file)


# ---- forks


@SIZES
def test_a_forked_child_has_its_own(mp, queue, size):
    array = through(queue, numbered(1, size))
    told = mp.RawValue("i")
    child = mp.Process(target=loans.write_and_compare, args=(array, 1, told))
    child.start()
    wait_until(lambda: told.value == 1)
    assert is_numbered(array, 1)
    array[:] = -2
    told.value = 2
    child.join()
    assert child.exitcode == 0
    assert (array == -2).all()
    # The extent is the channel's again since the fork.
    for number in range(5):
        assert is_numbered(through(queue, numbered(number, size)), number)
    assert (array == -2).all()


def test_a_child_may_send_what_it_inherited(mp, crew, queue):
    array = through(queue, numbered(1))
    outbox = mp.Queue()
    child = mp.Process(target=outbox.put, args=(array,))
    child.start()
    array[:] = 0
    child.join()
    got = outbox.get()
    assert is_numbered(got, 1) and is_lent(got)


def test_many_forks_amid_loans(mp, queue):
    """In other threads arrays come and go; each is whole, here and in the children."""
    stop, wrong, kept = [], [], []

    def receive(me):
        number = me
        while not stop:
            number += 2
            # What comes may be the other thread's.
            queue.put((number, numbered(number, 200_000)))
            sent, array = queue.get()
            if not is_numbered(array, sent):
                wrong.append(sent)
            kept.append((sent, array))
            if len(kept) > 8:
                del kept[:2]

    threads = [threading.Thread(target=receive, args=(me,)) for me in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        pid = os.fork()
        if not pid:
            ok = all(is_numbered(array, number) for number, array in list(kept))
            for _, array in list(kept):
                array[:] = 0
            os._exit(0 if ok else 9)
        assert os.waitpid(pid, 0)[1] == 0
    stop.append(True)
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(is_numbered(array, number) for number, array in kept)


# ---- deaths


def test_what_a_killed_holder_had_returns(mp, crew, queue):
    told = mp.RawValue("i")
    for _ in range(3):
        for number in range(10):
            queue.put(numbered(number, 4 * MIB))
        holder = crew.start(loans.keep_and_stop, queue, 10, told)
        wait_until(lambda: told.value == 10)
        assert segment() >= 40 * MIB
        told.value = 0
        crew.kill(holder)

        def is_back():
            assert is_numbered(through(queue, numbered(1)), 1)
            with contextlib.suppress(Exception):
                queue.get(timeout=0.15)
            return segment() <= 12 * MIB

        wait_until(is_back, "the dead one's memory")


def test_holders_killed_at_random(mp, crew, queue):
    """Nothing torn, nothing leaked."""
    queue, told = mp.Queue(8), mp.RawArray("i", 2)
    choice, end, number = random.Random(), time.monotonic() + SECONDS, 0
    takers = [crew.start(loans.die_amid_loans, queue, told, me) for me in range(3)]
    while time.monotonic() < end:
        number += 1
        size = choice.choice([70_000, 400_000, MIB, 4 * MIB, 8 * MIB])
        queue.put((number, numbered(number, size // 8 * 8)), timeout=20)
        if choice.random() < 0.05:
            crew.kill(takers.pop(choice.randrange(3)))
            takers.append(crew.start(loans.die_amid_loans, queue, told, number))
    for taker in takers:
        crew.kill(taker)
    assert told[0] == 0
    assert told[1] > 0

    def is_back():
        with contextlib.suppress(Exception):
            queue.get(timeout=0.15)
        return segment() <= 12 * MIB

    wait_until(is_back, "the memory of the dead")


def test_a_program_may_end_with_loans_in_its_hands():
    program = (
        "import fastmp, numpy, sys\n"
        "q = fastmp.Queue()\n"
        "kept = []\n"
        "for n in range(5):\n"
        "    q.put(numpy.full(200_000, n))\n"
        "    kept.append(q.get())\n"
        "sys.modules['kept'] = kept\n"
        "{}\n"
        "assert all((a == n).all() for n, a in enumerate(kept))\n"
        "print('whole')\n"
    )
    for between in ("", "q.close()", "del q", "import os; os.fork() and os.wait()"):
        run = subprocess.run(
            [sys.executable, "-c", program.format(between)], capture_output=True, text=True, timeout=50
        )
        assert (run.returncode, run.stderr) == (0, ""), between
        assert run.stdout.split() == ["whole"] * (2 if "fork" in between else 1)


# ---- threads


def test_views_die_in_any_thread(mp, crew, queue):
    count = 200
    crew.start(loans.put_numbered, queue, count, 100_000)
    hands, threads, wrong = [], [], []

    def drop(mine):
        while mine:
            number, array = mine.pop()
            if not is_numbered(array, number):
                wrong.append(number)
            del array

    for number in range(count):
        hands.append((number, queue.get()))
        if len(hands) == 10:
            threads.append(threading.Thread(target=drop, args=(hands,)))
            threads[-1].start()
            hands = []
    for thread in threads:
        thread.join()
    assert not wrong
    crew.join()


def test_what_is_in_a_circle_returns_with_it(queue):
    got = through(queue, numbered(0))
    address = got.ctypes.data
    circle = [got]
    circle.append(circle)
    del got, circle
    gc.collect()
    assert address in next_addresses(queue)


# ---- into a buffer of one's own


@pytest.mark.parametrize("size", [80_000, MIB, 12 * MIB])
def test_recv_bytes_into_an_array(mp, size):
    reader, writer = mp.Pipe(False)
    room = numpy.zeros(size // 8 + 2, dtype="i8")
    for number in range(4):
        writer.send_bytes(numbered(number, size))
        assert reader.recv_bytes_into(room, 8) == size
        assert is_numbered(room[1:-1], number)
        assert room[0] == room[-1] == 0
    # Into what was lent by the same pipe, too.
    writer.send(numbered(9, size))
    lent = reader.recv()
    writer.send_bytes(numbered(8, size))
    assert reader.recv_bytes_into(lent) == size
    assert is_numbered(lent, 8)


def test_too_short_a_buffer_loses_no_message(mp):
    reader, writer = mp.Pipe(False)
    for size in (80_000, 3 * MIB):
        room = bytearray(size)
        writer.send_bytes(numbered(1, size))
        with pytest.raises(BufferTooShort) as caught:
            reader.recv_bytes_into(room, 1)
        assert caught.value.args == (numbered(1, size).tobytes(),)
        assert not any(room)
        writer.send(numbered(2, size))
        room = bytearray(size + 1000)
        assert reader.recv_bytes_into(room) > size
        assert is_numbered(pickle.loads(room), 2)
