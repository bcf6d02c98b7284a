"""A channel costs two descriptors until a large message; its memory file reaches all who have it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from children import files, forking

pytestmark = pytest.mark.fastmp_only("the stdlib's messages are in its pipes")


@pytest.mark.method("fork")
def test_as_many_as_the_stdlib_under_the_usual_limit(mp):
    script = "import fastmp; from children import files; print(files.most(fastmp.get_context('fork')))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=True
    )
    assert all(500 <= n <= 512 for n in ast.literal_eval(done.stdout)), done.stdout


@pytest.mark.method("fork")
def test_small_messages_need_no_file(mp):
    before = forking.descriptors("socket:"), forking.descriptors("fastmp-queue", "fastmp-pipe")
    queues, pipes = [mp.Queue() for _ in range(20)], [mp.Pipe() for _ in range(20)]
    for number, (queue, (left, right)) in enumerate(zip(queues, pipes, strict=True)):
        for size in (10, 10_000, 60_000):
            queue.put(b"x" * size)
            left.send(b"y" * size)
        for size in (10, 10_000, 60_000):
            assert queue.get() == b"x" * size
            assert right.recv() == b"y" * size
        right.send(number)
        assert left.recv() == number
    now = forking.descriptors("socket:"), forking.descriptors("fastmp-queue", "fastmp-pipe")
    assert now == (before[0] + 80, before[1])
    queues[0].put(b"z" * 100_000)
    pipes[0][0].send(b"z" * 100_000)
    assert forking.descriptors("fastmp-queue", "fastmp-pipe") == before[1] + 2
    for queue, (left, right) in zip(queues, pipes, strict=True):
        queue.close()
        left.close()
        right.close()
    assert (forking.descriptors("socket:"), forking.descriptors("fastmp-queue", "fastmp-pipe")) == before


@pytest.mark.parametrize("first", ["child", "file"])
def test_large_messages_with_a_child_from_before_or_after(mp, first):
    queue, back, (mine, theirs), done = mp.Queue(), mp.Queue(), mp.Pipe(), mp.Event()
    if first == "file":
        queue.put(b"0" * 200_000)
        queue.get()
        mine.send(b"0" * 200_000)
        theirs.recv()
    child = mp.Process(target=files.exchange, args=(queue, back, theirs, 1, 5, done))
    child.start()
    for number in range(5):
        queue.put(files.message(0, number))
        mine.send(files.message(0, number))
        files.check(mine.recv(), 1, number)
        files.check(back.get(), 1, number)
    done.set()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("kind", ["pipe", "queue"])
def test_the_sender_may_be_killed_right_after(mp, kind):
    queue, (reader, writer) = mp.Queue(), mp.Pipe(False)
    if kind == "pipe":
        child = mp.Process(target=files.send_and_die, args=(writer, 3))
    else:
        child = mp.Process(target=files.put_and_die, args=(queue, 3))
    child.start()
    writer.close()
    child.join()
    for number in range(3):
        files.check(reader.recv() if kind == "pipe" else queue.get(), 1, number)
    if kind == "pipe":
        with pytest.raises(EOFError):
            reader.recv()


def test_two_who_share_an_end_take_turns(mp):
    """Both have it from before there was a file, and each message could be either's."""
    (reader, writer), turn, log = mp.Pipe(False), mp.Value("i"), mp.Value("i")
    children = [mp.Process(target=files.receive_in_turn, args=(reader, turn, mine, 20, log)) for mine in range(2)]
    for child in children:
        child.start()
    for number in range(20):
        writer.send(files.message(1, number))
    for child in children:
        child.join()
    assert (log.value, [child.exitcode for child in children]) == (2, [0, 0])


@pytest.mark.parametrize("there", [False, True], ids=["no file yet", "a file"])
def test_channels_that_come_in_a_message(mp, there):
    mine, theirs = mp.Pipe()
    queue, (left, right) = mp.Queue(), mp.Pipe()
    child = mp.Process(target=files.receive_from_another, args=(theirs, 4))
    child.start()
    if there:
        queue.put(b"0" * 200_000)
        queue.get()
        left.send(b"0" * 200_000)
        right.recv()
    mine.send((queue, right))
    for number in range(4):
        queue.put(files.message(0, number))
        files.check(left.recv(), 2, number)
    child.join()
    assert child.exitcode == 0


@pytest.mark.method("fork")
def test_a_queue_in_itself(mp):
    queue = mp.Queue()
    queue.put((queue, b"x" * 200_000))
    again, data = queue.get()
    assert len(data) == 200_000
    again.put(files.message(1, 1))
    files.check(queue.get(), 1, 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        queue.put(queue)
        queue.get().close()
    assert len(os.listdir("/proc/self/fd")) <= before + 4
