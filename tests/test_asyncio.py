"""Tasks that wait for channels: nothing is lost by cancellations, and nothing else is needed.

One file, though a long one: each test takes the loops and channels made at its head.
"""

import array
import asyncio
import contextlib
import gc
import os
import random
import selectors
import signal
import socket
import sys
import threading
import time

import fastmp
import pytest
from children import asynchronous
from children.common import wait_until

pytestmark = pytest.mark.fastmp_only("the stdlib's channels have nothing for tasks")


@pytest.fixture
def fork():
    """A context by fork: most of this needs no other."""
    return fastmp.get_context("fork")


def descriptors():
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))


async def settle():
    """Every task that can go on now does."""
    for _ in range(20):
        await asyncio.sleep(0)


def waiting(awaitable):
    return asyncio.ensure_future(awaitable)


# --- What they do ---


@pytest.mark.fastmp_only("the stdlib's channels have nothing for tasks")
def test_there_and_back(mp, crew):
    conn, other = mp.Pipe()
    crew.start(asynchronous.echo_async, other, conn if mp.get_start_method() == "fork" else None)
    other.close()

    async def main():
        large = bytearray(os.urandom(300_000))
        for item in (1, None, "text" * 100, large, [large, {"a": 1.5}]):
            await conn.send_async(item)
            assert await conn.recv_async() == item
        conn.close()

    asyncio.run(main())
    crew.join()


@pytest.mark.fastmp_only("the stdlib's channels have nothing for tasks")
def test_through_queues(mp, crew):
    there, back = mp.Queue(2), mp.Queue(2)
    crew.start(asynchronous.pass_on_async, there, back, 50)

    async def main():
        async def put():
            for i in range(50):
                await there.put_async(i)

        putting = waiting(put())
        assert [await back.get_async() for _ in range(50)] == list(range(50))
        await putting

    asyncio.run(main())
    crew.join()


def test_beside_those_who_wait_by_threads(fork):
    queue = fork.Queue(1)

    async def main():
        loop = asyncio.get_running_loop()
        thread = loop.run_in_executor(None, lambda: [queue.get() for _ in range(200)])
        for i in range(200):
            await queue.put_async(i)
        assert await thread == list(range(200))
        thread = loop.run_in_executor(None, lambda: [queue.put(i) for i in range(200)])
        assert [await queue.get_async() for _ in range(200)] == list(range(200))
        await thread

    asyncio.run(main())


def test_what_is_changed_after_the_call_is_not_sent(fork):
    queue, (reader, writer) = fork.Queue(), fork.Pipe(False)

    async def main():
        for put, take in ((queue.put_async, queue.get_async), (writer.send_async, reader.recv_async)):
            small, large = [1], array.array("b", bytes(200_000))
            putting = [put(small), put(large)]
            small.append(2)
            large[0] = 7
            for one in putting:
                await one
            assert await take() == [1]
            assert (await take())[0] == 0

    asyncio.run(main())


def test_what_does_not_pickle_raises_at_the_call(fork):
    queue, (reader, writer) = fork.Queue(), fork.Pipe(False)
    for put in (queue.put_async, writer.send_async):
        with pytest.raises(Exception, match="pickle"):
            put(lambda: None)
    with pytest.raises(OSError, match="read-only"):
        reader.send_async(1)

    async def main():
        with pytest.raises(OSError, match="write-only"):
            await writer.recv_async()

    asyncio.run(main())


def test_those_who_wait_put_in_their_order(fork):
    queue = fork.Queue(1)

    async def main():
        puts = [waiting(queue.put_async(i)) for i in range(50)]
        await settle()
        assert [put.done() for put in puts] == [True] + [False] * 49
        puts[20].cancel()
        # Who comes now, while there is room for a moment, comes behind them.
        got = [queue.get()]
        puts.append(waiting(queue.put_async(50)))
        got += [await queue.get_async() for _ in range(49)]
        assert got == [i for i in range(51) if i != 20]
        await asyncio.wait(puts)

    asyncio.run(main())


def test_those_who_wait_get_in_their_order(fork):
    queue = fork.Queue()

    async def main():
        gets = [waiting(queue.get_async()) for _ in range(50)]
        await settle()
        for i in range(20):
            queue.put(i)
        # What has been told of already goes to those who came before.
        late = waiting(queue.get_async())
        for i in range(20, 51):
            queue.put(i)
        assert await asyncio.gather(*gets, late) == list(range(51))

    asyncio.run(main())


def test_large_messages_wait_for_room(fork):
    reader, writer = fork.Pipe(False)
    items = [os.urandom(size) for size in (60_000, 200_000, 10, 65_000, 1_000_000) * 6]

    async def main():
        sends = [waiting(writer.send_async(item)) for item in items]
        await settle()
        assert not all(send.done() for send in sends)
        for item in items:
            assert await reader.recv_async() == item
        await asyncio.gather(*sends)

    asyncio.run(main())


def test_descriptors_go_along(fork):
    queue = fork.Queue(1)
    a, b = fork.Pipe()

    async def main():
        await queue.put_async(0)
        putting = waiting(queue.put_async(b))
        await settle()
        assert await queue.get_async() == 0
        conn = await queue.get_async()
        await putting
        conn.send("through")
        assert await a.recv_async() == "through"

    asyncio.run(main())


def test_over_a_descriptor_of_the_programs(fork):
    one, other = socket.socketpair()
    conn, peer = fastmp.connection.Connection(one.detach()), fastmp.connection.Connection(other.detach())

    async def main():
        receiving = waiting(conn.recv_async())
        await settle()
        assert not receiving.done()
        await peer.send_async(("x", 1))
        assert await receiving == ("x", 1)
        receiving = waiting(conn.recv_async())
        await settle()
        receiving.cancel()
        await settle()
        peer.send("kept")
        assert await conn.recv_async() == "kept"
        receiving = waiting(conn.recv_async())
        await settle()
        peer.close()
        with pytest.raises(EOFError):
            await receiving
        conn.close()
        with pytest.raises(OSError, match="closed"):
            await conn.recv_async()

    asyncio.run(main())


# --- Cancellation ---


@pytest.mark.timeout(60)
def test_a_hundred_tasks_over_four_processes_with_cancellations(fork):
    queue, (results, sender) = fork.Queue(16), fork.Pipe(False)
    workers = [fork.Process(target=asynchronous.be_consumers, args=(queue, sender, 25, seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    producers, count = 10, 300

    async def main():
        cancelled = await asynchronous.produce_with_cancellations(queue, producers, count, 99)
        for _ in workers:
            await queue.put_async(None)
        return cancelled, [await results.recv_async() for _ in workers]

    cancelled, reports = asyncio.run(main())
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    everything = [item for got, _, _ in reports for item in got]
    assert sorted(everything) == [((99, name), number) for name in range(producers) for number in range(count)]
    for _, straight, _ in reports:
        for name in range(producers):
            numbers = [number for (_, whose), number in straight if whose == name]
            assert numbers == sorted(numbers)
    # They were what it is about. How often each process comes to it is the scheduler's affair.
    assert cancelled + sum(times for *_, times in reports) > 100
    assert queue.qsize() == 0


async def within(seconds, awaitable):
    async with asyncio.timeout(seconds):
        return await awaitable


async def cancelled_after(seconds, awaitable):
    """As a task, which is cancelled by hand; what it has come to by then counts."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait([task], timeout=seconds)
    if task.cancel():
        await asyncio.wait([task])
    if task.cancelled():
        raise TimeoutError
    return task.result()


@pytest.mark.parametrize(
    "limited",
    [lambda seconds, awaitable: asyncio.wait_for(awaitable, seconds), within, cancelled_after],
    ids=["wait_for", "timeout", "cancel"],
)
def test_time_outs_that_race_with_messages(fork, limited):
    queue, rng, late = fork.Queue(), random.Random(6), 0

    async def main():
        nonlocal late
        got = []
        while len(got) < 400:
            try:
                got.append(await limited(rng.random() / 500, queue.get_async()))
            except TimeoutError:
                late += 1
        return got

    while late <= 20:  # how often that comes first depends on how busy the machine is
        child = fork.Process(target=asynchronous.put_all_with_pauses, args=(queue, 400, 5))
        child.start()
        got = asyncio.run(main())
        child.join()
        assert got == list(range(400))


def test_who_is_cancelled_after_it_was_woken_passes_that_on(fork):
    queue = fork.Queue()

    async def main():
        for _ in range(50):
            first, second = waiting(queue.get_async()), waiting(queue.get_async())
            await settle()
            queue.put("message")
            # A turn of the loop for the descriptor: the first is woken, and has not run.
            while not any(line.waiters[0].done() for line in lines(queue)):
                await asyncio.sleep(0)
            first.cancel()
            assert await asyncio.wait_for(second, 10) == "message"
            with pytest.raises(asyncio.CancelledError):
                await first

    def lines(channel):
        from fastmp import asynchronous

        pollers = asynchronous._pollers.values()
        return [poller.lines[id(channel)] for poller in pollers if id(channel) in poller.lines]

    asyncio.run(main())


def test_a_cancelled_put_puts_nothing(fork):
    queue = fork.Queue(1)
    reader, writer = fork.Pipe(False)

    async def main():
        await queue.put_async("first")
        for size in (1, 200_000):
            putting = waiting(queue.put_async(bytes(size)))
            await settle()
            putting.cancel()
            await settle()
        assert putting.cancelled()
        assert await queue.get_async() == "first"
        await settle()
        assert queue.empty()

        with contextlib.suppress(asyncio.TimeoutError):
            while True:
                await asyncio.wait_for(writer.send_async(bytes(60_000)), 0.05)
        writer.close()
        with pytest.raises(EOFError):
            while True:
                assert await reader.recv_async() == bytes(60_000)

    asyncio.run(main())


# --- Ends ---


def test_the_end_and_a_broken_pipe_while_tasks_wait(fork):
    async def main():
        conn, other = fork.Pipe()
        receiving = [waiting(conn.recv_async()) for _ in range(3)]
        await settle()
        other.send("last")
        other.close()
        assert await receiving[0] == "last"
        for one in receiving[1:]:
            with pytest.raises(EOFError):
                await one
        with pytest.raises(BrokenPipeError):
            await conn.send_async(1)

        conn, other = fork.Pipe()
        sending = [waiting(conn.send_async(bytes(60_000))) for _ in range(40)]
        await settle()
        assert not sending[-1].done()
        other.close()
        with pytest.raises(BrokenPipeError):
            await sending[-1]
        await asyncio.wait(sending)

    asyncio.run(main())


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in the loop's thread", "in another"])
def test_close_while_tasks_wait(fork, elsewhere):
    def close(channel):
        if elsewhere:
            thread = threading.Thread(target=channel.close)
            thread.start()
            thread.join()
        else:
            channel.close()

    async def main():
        queue = fork.Queue(1)
        gets = [waiting(queue.get_async()) for _ in range(3)]
        await settle()
        close(queue)
        for one in gets:
            with pytest.raises(ValueError, match="closed"):
                await one
        with pytest.raises(ValueError, match="closed"):
            await queue.get_async()
        with pytest.raises(ValueError, match="closed"):
            queue.put_async(1)

        queue = fork.Queue(1)
        puts = [waiting(queue.put_async(i)) for i in range(3)]
        await settle()
        close(queue)
        for one in puts[1:]:
            with pytest.raises(ValueError, match="closed"):
                await one

        conn, other = fork.Pipe()
        receiving = [waiting(conn.recv_async()) for _ in range(3)]
        sending = [waiting(conn.send_async(bytes(60_000))) for _ in range(40)]
        await settle()
        close(conn)
        for one in receiving:
            with pytest.raises(EOFError):
                await one
        with pytest.raises(OSError, match="closed"):
            await sending[-1]
        with pytest.raises(OSError, match="closed"):
            await conn.recv_async()
        await asyncio.wait(sending)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_killed_producers(fork):
    queue = fork.Queue(20)
    rng = random.Random(3)

    async def main():
        for _ in range(15):
            child = fork.Process(target=asynchronous.put_for_ever, args=(queue,))
            child.start()
            expected = 0
            for _ in range(rng.randrange(1, 200)):
                assert await queue.get_async() == expected
                expected += 1
            child.kill()
            child.join()
            # All that was put comes, and then nothing; and the next producer's are as good.
            with contextlib.suppress(asyncio.TimeoutError):
                while True:
                    assert await asyncio.wait_for(queue.get_async(), 0.15) == expected
                    expected += 1
            assert queue.empty()

    asyncio.run(main())


@pytest.fixture
def attempts(monkeypatch):
    """The attempts to take something out, and to put something."""
    from fastmp import asynchronous as ours

    class Counting:
        def __init__(self, operator):
            self.operator = operator
            self.count = 0

        def __getitem__(self, key):
            self.count += 1
            return self.operator[key]

    takes, puts = Counting(ours._take_now), Counting(ours._put_now)
    monkeypatch.setattr(ours, "_take_now", takes)
    monkeypatch.setattr(ours, "_put_now", puts)
    return takes, puts


def test_tasks_that_wait_are_not_woken_for_nothing(fork, attempts):
    queue, full = fork.Queue(), fork.Queue(1)
    takes, puts = attempts

    async def main():
        await full.put_async(0)
        tasks = [waiting(queue.get_async()) for _ in range(10)] + [waiting(full.put_async(1)) for _ in range(10)]
        await settle()
        for _ in range(5):
            # Another is quicker, here: in the same turn of the loop.
            queue.put(2)
            assert queue.get() == 2
            assert full.get() == 0
            full.put(0)
            await asyncio.sleep(0.02)
        takes.count = puts.count = 0
        await asyncio.sleep(0.3)
        assert (takes.count, puts.count) == (0, 0)
        for task in tasks[::2]:
            task.cancel()
        await settle()
        assert takes.count + puts.count <= 2
        for i in range(5):
            queue.put(i)
            full.get()
            await asyncio.sleep(0.01)
        assert all(task.done() for task in tasks)
        assert max(takes.count, puts.count) <= 15

    asyncio.run(main())


def test_killed_consumers(fork):
    queue, count, kills = fork.Queue(16), 5000, 12
    marks = fork.RawArray("b", count)
    rng = random.Random(4)

    def start():
        child = fork.Process(target=asynchronous.mark_for_ever, args=(queue, marks, 10))
        child.start()
        return child

    children = [start() for _ in range(3)]

    async def main():
        for i in range(count):
            if i % (count // kills) == count // kills - 1:
                child = children.pop(rng.randrange(3))
                await asyncio.sleep(rng.random() / 100)
                child.kill()
                child.join()
                children.append(start())
            await queue.put_async(i)

    asyncio.run(main())
    # Each had one in its hands at most.
    wait_until(lambda: queue.empty() and sum(marks) >= count - kills)
    for child in children:
        child.kill()
        child.join()
    assert max(marks) == 1


def test_a_sender_stopped_in_the_middle_is_not_asked_for_all_the_time(fork, attempts):
    """Its descriptor tells of a message that is not there yet."""
    from fastmp import asynchronous as ours

    takes, _ = attempts
    queue = fork.Queue()
    queue._watch()
    child = fork.Process(target=asynchronous.put_for_ever, args=(queue,))
    child.start()

    def is_caught():
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        while (item := takes.operator[queue, True]) is not ours._BUSY and item is not ours._NOTHING:
            pass
        if item is ours._BUSY:
            return True
        os.kill(child.pid, signal.SIGCONT)
        queue.get()
        return False

    wait_until(is_caught, "a producer that is stopped with the lock")

    async def main():
        getting = waiting(queue.get_async())
        await asyncio.sleep(1)
        assert not getting.done()
        assert 2 <= takes.count < 100
        os.kill(child.pid, signal.SIGCONT)
        assert isinstance(await getting, int)

    asyncio.run(main())
    child.kill()
    child.join()


# --- Loops, threads, descriptors ---


def test_no_threads_and_no_descriptors_are_left(fork):
    queue, (conn, other) = fork.Queue(1), fork.Pipe()
    conn.fileno()
    pipes = [fork.Pipe() for _ in range(32)]  # for the segments that all pipes share
    del pipes
    before, threads = descriptors(), os.listdir("/proc/self/task")

    async def main():
        tasks = [waiting(queue.get_async()) for _ in range(20)] + [waiting(conn.recv_async()) for _ in range(20)]
        await settle()
        many = [fork.Pipe() for _ in range(30)]
        tasks += [waiting(reader.recv_async()) for reader, _ in many]
        await settle()
        assert os.listdir("/proc/self/task") == threads
        # The loop's own, and an epoll of ours for each way; nothing for each channel or task.
        assert len(descriptors()) - len(before) <= 3 + 2 + 4 * len(many)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    for _ in range(3):
        asyncio.run(main())
    assert descriptors() == before
    # What tasks have waited for serves others as before.
    queue.put(1)
    other.send(2)
    assert (queue.get(), conn.recv()) == (1, 2)


def test_what_nobody_waits_for_wakes_nobody(fork):
    queue = fork.Queue()

    async def main():
        getting = waiting(queue.get_async())
        await settle()
        getting.cancel()
        queue.put("stays")
        await asyncio.sleep(0.05)
        used = time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - used < 0.1
        assert await queue.get_async() == "stays"

    asyncio.run(main())


def test_two_loops_in_two_threads(fork):
    queue = fork.Queue(4)
    got = {}

    def run(name):
        async def main():
            items = []
            while (item := await queue.get_async()) is not None:
                items.append(item)
            got[name] = items

        asyncio.run(main())

    threads = [threading.Thread(target=run, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()

    async def main():
        for i in range(2000):
            await queue.put_async(i)
        for _ in threads:
            await queue.put_async(None)

    asyncio.run(main())
    for thread in threads:
        thread.join()
    assert sorted(got[0] + got[1]) == list(range(2000))
    assert all(items == sorted(items) for items in got.values())


def test_the_programs_own_reader_stays(fork):
    conn, other = fork.Pipe()

    async def main():
        loop = asyncio.get_running_loop()
        called = asyncio.Event()
        loop.add_reader(conn.fileno(), called.set)
        receiving = waiting(conn.recv_async())
        await settle()
        other.send(1)
        assert await receiving == 1
        called.clear()
        other.send(2)
        await asyncio.wait_for(called.wait(), 10)
        assert await conn.recv_async() == 2
        loop.remove_reader(conn.fileno())

    asyncio.run(main())


def test_a_fork_in_the_middle(fork):
    queue, (conn, other) = fork.Queue(), fork.Pipe()

    def child(queue, conn):
        async def main():
            await conn.send_async(await queue.get_async())

        asyncio.run(main())

    async def main():
        # They wait here, not in the child.
        receiving = waiting(other.recv_async())
        getting = waiting(queue.get_async())
        await settle()
        process = fork.Process(target=child, args=(queue, conn))
        process.start()
        getting.cancel()
        await settle()
        queue.put("to the child")
        assert await asyncio.wait_for(receiving, 20) == "to the child"
        getting = waiting(queue.get_async())
        await settle()
        queue.put("here")
        assert await asyncio.wait_for(getting, 20) == "here"
        process.join()
        assert process.exitcode == 0

    asyncio.run(main())


def test_a_loop_without_readers_is_told(fork):
    class Loop(asyncio.SelectorEventLoop):
        def add_reader(self, fd, callback, *args):
            raise NotImplementedError

    queue = fork.Queue(1)
    before = descriptors()

    async def main():
        await queue.put_async(1)
        assert await queue.get_async() == 1
        with pytest.raises(NotImplementedError, match="Loop"):
            await queue.get_async()

    loop = Loop(selectors.SelectSelector())
    # What the loop itself waits for, it says to its own base.
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    del loop
    assert descriptors() == before


def test_a_loop_that_ends_with_tasks_that_wait(fork):
    queue = fork.Queue()
    before = descriptors()
    loop = asyncio.new_event_loop()

    async def main():
        tasks.append(asyncio.ensure_future(queue.get_async()))
        tasks.append(asyncio.ensure_future(queue.get_async()))
        await settle()

    tasks = []
    loop.run_until_complete(main())
    loop.set_exception_handler(lambda loop, context: None)  # that they are destroyed
    loop.close()
    queue.put("kept")
    tasks.clear()
    del loop
    assert descriptors() == before
    assert queue.get() == "kept"
    queue.close()


def test_importing_costs_nothing_more():
    import subprocess

    code = (
        "import sys, fastmp; q = fastmp.Queue(); q.put(1); q.get(); q.close()\n"
        "assert 'asyncio' not in sys.modules and 'fastmp.asynchronous' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
