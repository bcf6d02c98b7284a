"""JoinableQueue, held to what the stdlib's does; and, of ours, what is told of those who died."""

import os
import queue as errors
import signal
import threading
import time
import warnings

import fastmp
import pytest
from children import queues
from children.common import thread_sleeps, wait_asleep, wait_until


@pytest.fixture
def queue(mp):
    queue = mp.JoinableQueue()
    yield queue
    queue.cancel_join_thread()
    queue.close()


def joins(queue):
    """Does `join` return at once?"""
    thread = threading.Thread(target=queue.join, daemon=True)
    thread.start()
    thread.join(0.3)
    return not thread.is_alive()


def test_it_is_a_queue(mp, queue):
    other = mp.Queue()
    assert isinstance(queue, type(other))
    assert not isinstance(other, type(queue))
    assert type(queue).__name__ == "JoinableQueue"
    bounded = mp.JoinableQueue(2)
    bounded.put(1)
    bounded.put(2)
    assert bounded.full()
    with pytest.raises(errors.Full):
        bounded.put(3, block=False)
    assert [bounded.get(), bounded.get()] == [1, 2]


def test_every_task_is_waited_for(queue):
    assert joins(queue)
    for number in range(3):
        queue.put(number)
    for _ in range(3):
        assert not joins(queue)
        queue.get()
        queue.task_done()
    assert joins(queue)


def test_tasks_that_are_done_before_they_are_got(queue):
    queue.put(1)
    queue.task_done()
    assert joins(queue)
    assert queue.get() == 1


def test_more_done_than_put(queue):
    with pytest.raises(ValueError, match="called too many times"):
        queue.task_done()
    queue.put(1)
    queue.task_done()
    with pytest.raises(ValueError, match="called too many times"):
        queue.task_done()


def test_workers(mp, crew, queue):
    """`join` returns when all is done, and what was done is seen."""
    done = mp.Value("i", 0)
    for _ in range(3):
        crew.start(queues.do_tasks, queue, done)
    for round_ in range(1, 5):
        for _ in range(25):
            queue.put(1)
        queue.join()
        assert done.value == 25 * round_
    for _ in range(3):
        queue.put(None)
    queue.join()
    crew.join()


def test_who_joins_may_be_another_process(mp, crew, queue):
    queue.put(1)
    joiner = crew.start(queues.join_tasks, queue)
    wait_asleep(joiner.pid)
    assert joiner.is_alive()
    queue.get()
    queue.task_done()
    crew.join()


def test_several_join(queue):
    queue.put(1)
    threads = [threading.Thread(target=queue.join) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.task_done()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_closed_when_all_was_done(mp):
    queue = mp.JoinableQueue()
    queue.put(1)
    queue.get()
    queue.task_done()
    queue.close()
    assert joins(queue)
    queue.join_thread()


def test_closed_with_tasks_left(mp):
    """Nothing more is put or got here; what was got is still done, and waited for."""
    queue = mp.JoinableQueue()
    for number in range(2):
        queue.put(number)
    assert [queue.get(), queue.get()] == [0, 1]
    waits = threading.Thread(target=queue.join, daemon=True)
    waits.start()
    wait_until(lambda: thread_sleeps(waits.native_id), "a thread in its wait")
    queue.close()
    assert not joins(queue)
    queue.task_done()
    assert queue._unfinished_tasks.get_value() == 1
    assert not joins(queue)
    queue.task_done()
    waits.join(20)
    assert not waits.is_alive()
    assert joins(queue)
    with pytest.raises(ValueError, match="called too many times"):
        queue.task_done()
    queue.join_thread()


def test_who_has_closed_it_waits_for_others(mp, crew):
    queue, done = mp.JoinableQueue(), mp.Value("i", 0)
    crew.start(queues.do_tasks, queue, done)
    for number in range(20):
        queue.put(number)
    queue.put(None)
    queue.close()
    queue.join()
    assert done.value == sum(range(20))
    crew.join()


def test_a_worker_may_close_it_before_it_is_done(mp, crew, queue):
    queue.put(1)
    crew.run(queues.close_and_do, queue)
    queue.join()


def test_travels_as_what_it_is(mp, crew, queue):
    other = mp.Queue()
    queue.put(1)
    crew.run(queues.type_of, queue, other)
    assert other.get() == "JoinableQueue"
    queue.join()


def test_the_count_that_programs_look_at(queue):
    queue.put(1)
    queue.put(2)
    assert queue._unfinished_tasks._semlock._get_value() == 2
    queue.task_done()
    assert queue._unfinished_tasks.get_value() == 1


# ---- ours alone

OURS = pytest.mark.fastmp_only("the stdlib waits for ever")


@OURS
def test_tasks_of_a_dead_putter_count(mp, crew, queue):
    putter = crew.start(queues.put_and_sleep, queue, 3)
    wait_until(lambda: queue.qsize() == 3, "three tasks")
    crew.kill(putter)
    assert not joins(queue)
    for _ in range(3):
        queue.get()
        queue.task_done()
    assert joins(queue)


@OURS
@pytest.mark.parametrize("raises", [False, True])
def test_a_dead_worker_is_told_of(mp, crew, queue, raises):
    taken = mp.Value("i", 0)
    queue.put(1)
    workers = [crew.start(queues.take_and_sleep, queue, taken) for _ in range(2)]  # one of them waits
    wait_until(lambda: taken.value, "a task is taken")
    victim = next(worker for worker in workers if worker.pid == taken.value)
    crew.kill(victim)
    if raises:
        with pytest.raises(fastmp.WorkerDiedError, match=rf"1 tasks .*pid {victim.pid}") as died:
            queue.join(on_death="raise")
        assert (died.value.pid, died.value.pids) == (victim.pid, (victim.pid,))
        assert isinstance(died.value, fastmp.ProcessError)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        timer = threading.Timer(0.5, queue.task_done)
        timer.start()
        start = time.monotonic()
        queue.join()
        timer.join()
        assert time.monotonic() - start >= 0.4  # it went on to wait
    assert [warning.category for warning in caught] == [fastmp.WorkerDiedWarning]
    assert str(victim.pid) in str(caught[0].message)
    assert caught[0].filename == __file__


@OURS
def test_a_dead_worker_is_told_of_who_has_closed_it(mp, crew, queue):
    taken = mp.Value("i", 0)
    queue.put(1)
    worker = crew.start(queues.take_and_sleep, queue, taken)
    wait_until(lambda: taken.value, "a task is taken")
    queue.close()
    crew.kill(worker)
    with pytest.raises(fastmp.WorkerDiedError, match=rf"1 tasks .*pid {worker.pid}"):
        queue.join(on_death="raise")


@OURS
def test_what_was_done_after_closing_is_owed_no_more(mp, crew, queue):
    taken = mp.Value("i", 0)
    queue.put(1)
    crew.run(queues.close_and_do, queue)
    queue.put(2)
    worker = crew.start(queues.take_and_sleep, queue, taken)
    wait_until(lambda: taken.value, "a task is taken")
    crew.kill(worker)
    with pytest.raises(fastmp.WorkerDiedError) as died:
        queue.join(on_death="raise")
    assert died.value.pids == (worker.pid,)


@OURS
def test_no_warning_while_one_may_have_a_task(mp, crew, queue):
    taken = mp.Value("i", 0)
    queue.put(1)
    queue.put(2)
    first = crew.start(queues.take_and_sleep, queue, taken)
    wait_until(lambda: taken.value == first.pid, "a task is taken")
    second = crew.start(queues.take_and_sleep, queue, taken)
    wait_until(lambda: taken.value == second.pid, "another one is taken")
    crew.kill(first)
    os.kill(second.pid, signal.SIGSTOP)  # stopped is alive
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threading.Timer(0.4, lambda: (queue.task_done(), queue.task_done())).start()
        queue.join()


@OURS
def test_what_is_thrown_away_is_done(mp, crew, queue):
    for number in range(3):
        queue.put(number)
    queue.get()
    joiner = crew.start(queues.join_tasks, queue)
    wait_asleep(joiner.pid)
    queue.shutdown(immediate=True)
    assert joiner.is_alive()  # one has been got
    queue.task_done()
    crew.join()
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()


@OURS
def test_on_death_is_checked(queue):
    with pytest.raises(ValueError, match="on_death"):
        queue.join(on_death="warn")
