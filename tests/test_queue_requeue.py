"""`Queue(requeue=True)`: what a killed process had got comes back, and what was dealt with does not."""

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import queue as errors
import random
import signal
import sys
import threading
import time
from multiprocessing.connection import wait

import fastmp
import pytest
from children import requeue
from children.common import wait_until

pytestmark = pytest.mark.fastmp_only("the stdlib loses what a killed process has got")


def take_and_die(mp, crew, queue, count):
    """A process gets some, and is killed."""
    taken = mp.Value("i", 0)
    victim = crew.start(requeue.take, queue, count, taken)
    wait_until(lambda: taken.value >= count, "its messages")
    crew.kill(victim)


def rest(queue):
    got = []
    while True:
        queue._look_after(True)
        try:
            got.append(queue.get(False))
        except errors.Empty:
            return got


def test_it_comes_back_first(mp, crew):
    queue = mp.Queue(requeue=True)
    for item in ("a", b"b" * 1_000_000, {"c": [1.5]}, "d"):
        queue.put(item)
    take_and_die(mp, crew, queue, 2)
    # The first was acknowledged, by asking for the second. Somebody may just have looked in vain.
    queue._look_after(True)
    assert queue.get(timeout=10) == b"b" * 1_000_000
    assert [queue.get(), queue.get()] == [{"c": [1.5]}, "d"]
    with pytest.raises(errors.Empty):
        queue.get(timeout=0.1)


def test_who_waits_gets_it(mp, crew):
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put("work")
    victim = crew.start(requeue.take, queue, 1, taken)
    wait_until(lambda: taken.value)
    killer = threading.Timer(0.3, lambda: os.kill(victim.pid, signal.SIGKILL))
    killer.start()
    assert queue.get() == "work"  # of one that nobody has waited for
    killer.join()
    crew.members.remove(victim)
    victim.join()


ASKED = {
    "qsize": lambda queue: queue.qsize() == 1,
    "empty": lambda queue: not queue.empty(),
    "full": lambda queue: queue.full(),
    "get_nowait": lambda queue: queue.get_nowait() == "work",
    "get_many": lambda queue: queue.get_many(2, False) == ["work"],
    "get in no time": lambda queue: queue.get(timeout=0) == "work",
    "poll": lambda queue: queue._reader.poll(),
    "wait": lambda queue: wait([queue._reader], 0) != [],
    "stats": lambda queue: queue.stats().depth == 1,
}


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.method("fork")
def test_who_does_not_wait_is_told_the_truth(mp, crew, ask):
    """Asked once, more than 100 ms after the death, with nobody else to look; also of a zombie."""
    for is_waited_for in (True, False):
        queue, taken = mp.Queue(1, requeue=True), mp.Value("i", 0)
        queue.put("work")
        pid = os.fork()
        if pid == 0:
            requeue.take(queue, 1, taken, "_exit")
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT).si_pid == pid
        if is_waited_for:
            os.waitpid(pid, 0)
        time.sleep(0.1)
        assert ASKED[ask](queue)
        if not is_waited_for:
            os.waitpid(pid, 0)


@pytest.mark.parametrize("how", ["return", "raise", "exit"])
def test_a_normal_end_acknowledges(mp, how):
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put(1)
    queue.put(b"2" * 200_000)
    process = mp.Process(target=requeue.take, args=(queue, 2, taken, how))
    process.start()
    process.join()
    assert taken.value == 2
    assert rest(queue) == []


@pytest.mark.parametrize("how", ["_exit", int(signal.SIGTERM), int(signal.SIGSEGV)])
def test_any_other_does_not(mp, how):
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put(1)
    process = mp.Process(target=requeue.take, args=(queue, 1, taken, how))
    process.start()
    process.join()
    assert taken.value == 1
    assert rest(queue) == [1]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(("how", "left"), [("return", []), ("raise", []), ("_exit", [1])])
@pytest.mark.method("fork")
def test_processes_of_the_stdlib(mp, method, how, left):
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put(1)
    process = multiprocessing.get_context(method).Process(target=requeue.take, args=(queue, 1, taken, how))
    process.start()
    process.join()
    assert taken.value == 1
    assert rest(queue) == left


@pytest.mark.method("fork")
def test_a_plain_fork(mp):
    for code, left in ((None, [1]), (0, [])):
        queue = mp.Queue(requeue=True)
        queue.put(1)
        pid = os.fork()
        if pid == 0:
            queue.get()
            if code is not None:
                fastmp._native._acknowledge()
            os._exit(0)
        os.waitpid(pid, 0)
        assert rest(queue) == left


def test_a_thread_that_ends_acknowledges(mp, crew):
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put_many(["first", "second"])
    victim = crew.start(requeue.take_in_threads, queue, taken, False)
    wait_until(lambda: taken.value == 2)
    crew.kill(victim)
    assert rest(queue) == ["second"]
    queue.put_many(["third", "fourth"])
    taken.value = 0
    crew.run(requeue.take_in_threads, queue, taken, True)  # daemons and all
    assert rest(queue) == []


def test_threads_that_outlive_the_main_one(mp, crew):
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put("in its hands")
    victim = crew.start(requeue.take_in_a_thread_that_goes_on, queue, taken)
    wait_until(lambda: taken.value)
    time.sleep(0.3)
    crew.kill(victim)
    assert rest(queue) == ["in its hands"]


def test_closing_acknowledges(mp, crew):
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put_many(["dealt with", "left"])
    victim = crew.start(requeue.take_and_close, queue, taken)
    wait_until(lambda: taken.value)
    crew.kill(victim)
    assert rest(queue) == ["left"]


@pytest.mark.method("fork")
def test_closing_leaves_what_is_being_copied(mp):
    """By another thread, while a large message is on its way out of shared memory."""
    data = b"\x01" * (64 << 20)

    def get(queue, got):
        with contextlib.suppress(ValueError):  # it has been closed before
            got.append(queue.get())

    for delay in range(1, 13):
        queue, got = mp.Queue(requeue=True), []
        queue.put(data)
        getter = threading.Thread(target=get, args=(queue, got))
        getter.start()
        time.sleep(delay / 1000)
        queue.close()
        getter.join()
        assert all(item == data for item in got), "it is torn"


@pytest.mark.method("fork")
def test_another_program_in_the_same_process_does_not(mp):
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put("work")
    pid = os.fork()
    if pid == 0:
        queue.get()
        taken.value = 1
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(100)"])
    wait_until(lambda: taken.value)
    try:
        assert queue.get() == "work"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.method("fork")
def test_a_forked_child_holds_nothing_of_its_parents(mp, crew):
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put_many(["the parent's", "the child's"])
    crew.run(requeue.fork_and_end, queue, taken)
    assert rest(queue) == ["the child's"]


@pytest.mark.parametrize("most", [1, 3, 50])
def test_batches(mp, crew, most):
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put_many(range(20))
    victim = crew.start(requeue.take_many, queue, most, taken)
    wait_until(lambda: taken.value)
    assert taken.value == min(most, 20)
    assert queue.qsize() == 20 - taken.value
    crew.kill(victim)
    assert queue._look_after(True)
    assert queue.qsize() == 20
    got = queue.get_many(2)
    assert got == list(range(len(got)))
    while len(got) < 20:
        got += queue.get_many(100)
    assert got == list(range(20))


@pytest.mark.method("fork")
def test_a_batch_fits_into_what_is_kept(mp):
    queue = mp.Queue(requeue=True)
    items = [b"x" * 1000] * 200 + [b"y" * 500_000] + list(range(3000))
    queue.put_many(items)
    got, batches = [], 0
    while len(got) < len(items):
        got += queue.get_many(len(items))
        batches += 1
    assert got == items
    assert 5 <= batches <= 20


def test_tasks_of_an_event_loop(mp, crew):
    queue = mp.Queue(requeue=True)
    queue.put_many(["first", "second"])
    taken = mp.Value("i", 0)
    victim = crew.start(requeue.take_async, queue, taken)
    wait_until(lambda: taken.value == 2)

    async def main():
        getter = asyncio.ensure_future(queue.get_async())
        others = [asyncio.ensure_future(queue.get_async()) for _ in range(3)]
        await asyncio.sleep(0.2)
        assert not getter.done()
        crew.kill(victim)
        assert await asyncio.wait_for(getter, 20) == "second"
        for other in others:
            other.cancel()

    asyncio.run(main())
    assert rest(queue) == []


def test_tasks_that_wait_acknowledge_nothing(mp, crew):
    """What one of them has got is in its hands though others are woken in vain."""
    queue, ready, taken = mp.Queue(requeue=True), mp.Value("i", 0), mp.Value("i", 0)
    victim = crew.start(requeue.take_async_beside_others, queue, ready, taken)
    wait_until(lambda: ready.value)
    queue.put("work")
    wait_until(lambda: taken.value)
    crew.kill(victim)
    assert rest(queue) == ["work"]


def test_joinable(mp, crew):
    queue, taken = mp.JoinableQueue(requeue=True), mp.Value("i", 0)
    for number in range(4):
        queue.put(number)
    victim = crew.start(requeue.take_tasks, queue, 2, taken)
    wait_until(lambda: taken.value)
    crew.kill(victim)
    assert queue._unfinished() == 2
    joiner = threading.Thread(target=queue.join, daemon=True)
    joiner.start()
    queue._look_after(True)
    assert queue.get(timeout=10) == 2
    queue.task_done()
    assert queue.get() == 3
    assert joiner.is_alive()
    queue.task_done()
    joiner.join(20)
    assert not joiner.is_alive()
    with pytest.raises(ValueError, match="too many"):
        queue.task_done()
    assert rest(queue) == []


@pytest.mark.method("fork")
def test_join_raises_nothing_for_what_comes_back(mp, crew):
    queue, taken = mp.JoinableQueue(requeue=True), mp.Value("i", 0)
    queue.put("task")
    victim = crew.start(requeue.take_tasks, queue, 0, taken)
    wait_until(lambda: taken.value)
    crew.kill(victim)

    def do():
        time.sleep(0.5)
        assert queue.get() == "task"
        queue.task_done()

    doer = threading.Thread(target=do)
    doer.start()
    queue.join(on_death="raise")
    doer.join()


@pytest.mark.method("fork")
def test_batches_of_tasks(mp):
    queue = mp.JoinableQueue(requeue=True)
    queue.put_many(range(5))
    pid = os.fork()
    if pid == 0:
        queue.get_many(4)
        queue.task_done()
        queue.task_done()
        os._exit(0)
    os.waitpid(pid, 0)
    assert queue._unfinished() == 3
    assert rest(queue) == [2, 3, 4]
    for _ in range(3):
        queue.task_done()
    queue.join()


def test_a_task_done_by_another_thread(mp, crew):
    queue, taken = mp.JoinableQueue(requeue=True), mp.Value("i", 0)
    queue.put_many(["done", "left"])
    victim = crew.start(requeue.have_another_thread_say_so, queue, taken)
    wait_until(lambda: taken.value)
    crew.kill(victim)
    assert queue._unfinished() == 1
    assert rest(queue) == ["left"]
    queue.task_done()
    queue.join()


@pytest.mark.method("fork")
def test_watch(mp, crew):
    """What a watched one had got comes before the error that tells of its death."""
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put("work")
    victim = crew.start(requeue.take, queue, 1, taken)
    crew.members.remove(victim)
    wait_until(lambda: taken.value)
    threading.Timer(0.2, victim.kill).start()
    assert queue.get(watch=[victim]) == "work"
    with pytest.raises(fastmp.WorkerDiedError):
        queue.get(watch=[victim])


@pytest.mark.method("fork")
def test_who_watches_looks_as_often_as_who_waits(mp, crew, monkeypatch):
    """For another that dies than those that are watched."""
    pauses = []

    def noted(objects, timeout):
        pauses.append(timeout)
        return wait(objects, timeout)

    monkeypatch.setattr("multiprocessing.connection.wait", noted)
    queue, taken = mp.Queue(requeue=True), mp.Value("i", 0)
    queue.put("work")
    victim = crew.start(requeue.take, queue, 1, taken)
    watched = crew.start(time.sleep, 100)
    wait_until(lambda: taken.value)
    with pytest.raises(errors.Empty):
        queue.get(timeout=0.2, watch=[watched])
    assert pauses
    assert max(pauses) <= 0.1
    crew.kill(victim)
    assert queue.get(watch=[watched]) == "work"


@pytest.mark.method("fork")
def test_stats(mp, crew):
    queue = mp.Queue(1, requeue=True, max_bytes=1000)
    queue.put("work")
    take_and_die(mp, crew, queue, 1)
    queue.put("more")
    assert queue._look_after(True)
    stats = queue.stats()
    assert (stats.depth, stats.messages_in, stats.messages_out) == (2, 2, 1)
    assert [queue.get(), queue.get()] == ["work", "more"]
    after = queue.stats()
    assert (after.depth, after.messages_in, after.messages_out, after.high_water) == (0, 2, 2, 2)
    assert (after.bytes_in, after.bytes_out) == (stats.bytes_in, stats.bytes_in)


@pytest.mark.method("fork")
def test_bounds(mp, crew):
    queue = mp.Queue(2, requeue=True)
    queue.put(0)
    queue.put(1)
    take_and_die(mp, crew, queue, 1)
    queue.put(2)
    queue._look_after(True)
    assert (queue.qsize(), queue.full(), queue.empty()) == (3, True, False)
    with pytest.raises(errors.Full):
        queue.put_nowait(3)
    assert [queue.get() for _ in range(2)] == [0, 1]
    queue.put_nowait(3)
    assert rest(queue) == [2, 3]


@pytest.mark.method("fork")
def test_shutdown(mp, crew):
    queue = mp.Queue(requeue=True)
    queue.put_many(["taken", "left"])
    take_and_die(mp, crew, queue, 1)
    queue.shutdown()  # which looks
    assert [queue.get(), queue.get()] == ["taken", "left"]
    with pytest.raises(fastmp.ShutDown):
        queue.get()
    queue = mp.Queue(requeue=True)
    queue.put_many(["taken", "left"])
    take_and_die(mp, crew, queue, 1)
    queue.shutdown(immediate=True)
    assert not queue._look_after(True)
    with pytest.raises(fastmp.ShutDown):
        queue.get()


@pytest.mark.method("fork")
def test_its_descriptor(mp, crew):
    queue = mp.Queue(requeue=True)
    assert not wait([queue._reader], 0)
    queue.put(1)
    take_and_die(mp, crew, queue, 1)
    assert queue._reader.poll(10)
    assert wait([queue._reader], 0)
    assert queue.get(False) == 1
    assert not wait([queue._reader], 0)


@pytest.mark.method("fork")
def test_what_needs_descriptors_is_refused(mp):
    queue = mp.Queue(requeue=True)
    reader, writer = mp.Pipe()
    refused = pytest.raises(ValueError, match="requeue=True takes no object that needs descriptors")
    for item in (reader, mp.Lock(), [1, mp.Queue()]):
        with refused:
            queue.put(item)
        with refused:
            queue.put_nowait(item)
        with refused:
            queue.put_many([1, item])
        with refused:
            queue.put_async(item)
    assert queue.empty()
    reader.close()
    writer.close()


def test_it_travels(mp, crew):
    carrier, out, queue = mp.Queue(), mp.Queue(), mp.JoinableQueue(requeue=True)
    assert (queue._requeue, carrier._requeue) == (True, False)
    queue.put("inside")
    carrier.put(queue)
    victim = crew.start(requeue.relay, carrier, out)
    assert out.get() == (True, "inside")
    assert rest(queue) == []
    crew.kill(victim)
    assert rest(queue) == ["inside"]


class Special(fastmp.queues.Queue):
    pass


@pytest.mark.method("fork")
def test_arguments(mp):
    assert not mp.Queue()._requeue
    assert Special(3, requeue=True, ctx=mp)._requeue
    assert mp.Queue(requeue=1)._requeue
    with pytest.raises(TypeError):
        mp.Queue(0, True)
    with pytest.raises(TypeError):
        mp.SimpleQueue(requeue=True)
    queue = mp.Queue(requeue=True)
    queue.close()
    assert not queue._requeue
    assert not queue._look_after()


@pytest.mark.method("fork")
def test_two_handles_of_one_queue(mp):
    """What was got by one is not acknowledged by the other, nor by its end."""
    carrier, queue = mp.Queue(), mp.Queue(requeue=True)
    queue.put_many(range(3))
    pid = os.fork()
    if pid == 0:
        carrier.put(queue)
        other = carrier.get()
        other.get()
        queue.get()
        other.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert rest(queue) == [1, 2]


@pytest.mark.timeout(120, method="signal")
def test_consumers_are_killed_at_random(mp, crew):
    """None is lost, and each producer's are in order but for what comes back."""
    producers, consumers, count = 2, 3, 1000
    queue = mp.Queue(50, requeue=True)
    log = mp.RawArray("B", producers * 10_000)
    dice = random.Random(1)
    seeds = itertools.count()
    for producer in range(producers):
        crew.start(requeue.produce, queue, producer, count, [10, 100, 1000, 30_000, 100_000])
    workers = []

    def start():
        worker = mp.Process(target=requeue.work, args=(queue, log, next(seeds)), daemon=True)
        worker.start()
        workers.append(worker)

    for _ in range(consumers):
        start()
    pause = 0.03 if mp.get_start_method() == "fork" else 0.3
    end = time.monotonic() + 8
    kills = 0
    while time.monotonic() < end:
        time.sleep(dice.random() * pause)
        victim = workers.pop(dice.randrange(len(workers)))
        victim.kill()
        victim.join()
        kills += 1
        start()
    crew.join()
    for _ in range(consumers):
        queue.put(None)
    # One that gets None ends, and the others go on: all that comes back is seen to.
    for worker in workers:
        worker.join()
    while (left := rest(queue)) and any(item is not None for item in left):
        for item in left:
            if item is not None:
                log[item[0] * 10_000 + item[1]] += 1
    for producer in range(producers):
        came = log[producer * 10_000 : producer * 10_000 + count]
        assert min(came) >= 1, f"{came.count(0)} of {count} are lost after {kills} kills"
        assert not any(log[producer * 10_000 + count : (producer + 1) * 10_000])
