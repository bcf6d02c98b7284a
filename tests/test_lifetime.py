"""How long a block lives: never used again while somebody can reach it, and used again when nobody
can.

FASTMP_TEST_CYCLES: how many pairs of a Lock and a Value the loops make and share (a full run is
100,000).
"""

import os

import pytest
from children import foreign, lifetimes, usage
from children.common import wait_until

pytestmark = pytest.mark.fastmp_only("the stdlib takes a descriptor or a name for each")
CYCLES = int(os.environ.get("FASTMP_TEST_CYCLES", "3000"))
EACH = 10  # pairs that one forked child is given
LIMIT = 60 + CYCLES // 100
KIB = 1 << 10


def run_maker(mp, way, place=None):
    """In a process of its own, whose books are empty."""
    steps = mp.RawArray("i", 5)
    maker = mp.Process(target=lifetimes.make, args=(mp, way, steps, place))
    maker.start()
    maker.join()
    return maker.exitcode, steps[lifetimes.RESULT]


@pytest.mark.parametrize("way", lifetimes.WAYS)
def test_kept_while_it_can_be_reached_and_then_used_again(mp, way):
    assert run_maker(mp, way) == (0, lifetimes.WELL)


@pytest.mark.parametrize("way", ["argument", "queue", "pipe, received"])
def test_when_proc_is_hidden_it_is_never_used_too_early(mp, way):
    code, result = run_maker(mp, way, "hidden proc")
    if code == foreign.NOT_PERMITTED:
        pytest.skip("not permitted here")
    assert (code, result) == (0, lifetimes.WELL)


def expect_flat(before, after, shared=256 * KIB):
    print(before, after, sep="\n")
    assert after["descriptors"] <= before["descriptors"] + 10
    assert after["mappings"] <= before["mappings"] + 4
    assert after["shared bytes"] <= before["shared bytes"] + shared
    assert after["resident bytes"] <= before["resident bytes"] + 8 * KIB * KIB


def make_pairs(mp, count=EACH):
    return [(mp.Lock(), mp.Value("i", 0)) for _ in range(count)]


@pytest.mark.timeout(LIMIT, method="signal")
@pytest.mark.parametrize("ending", ["killed", "ended"])
def test_shared_with_children(mp, ending):
    spawn = mp.get_start_method() == "spawn"

    def cycle(times):
        for _ in range(times):
            pairs = make_pairs(mp, 50 if spawn else EACH)
            child = mp.Process(target=lifetimes.use_pairs, args=(pairs, ending))
            child.start()
            child.join()
            assert all(value.value == 1 for _, value in pairs)

    times = CYCLES // EACH
    if spawn:
        times = min(times, 40 + times // 50)  # fifty times as slow
    cycle(15)
    before = usage.least(cycle, mp)
    cycle(times)
    expect_flat(before, usage.least(cycle, mp))


@pytest.mark.timeout(LIMIT, method="signal")
@pytest.mark.parametrize("kind", ["queue", "pipe"])
def test_sent_to_others_that_are_killed_now_and_then(mp, crew, kind):
    """A receiver is killed in the middle of things, and another one goes on with what it has left
    unread.
    """
    done = mp.RawValue("i")
    if kind == "queue":
        source = mp.Queue()
        send = source.put
    else:
        source, sink = mp.Pipe()
        send = sink.send

    def cycle(times):
        receiver = crew.start(lifetimes.use_what_comes, source, done)
        before = done.value
        for i in range(times):
            pair = make_pairs(mp, 1)[0]
            if i == times // 2:
                crew.kill(receiver)
                before -= 1  # one may have died with it
                receiver = crew.start(lifetimes.use_what_comes, source, done)
            send(pair)
        wait_until(lambda: done.value >= before + times - 1)
        crew.kill(receiver)

    for _ in range(10):
        cycle(500)
    before = usage.look()
    for _ in range(max(40, CYCLES // 500)):
        cycle(500)
    # How many are under way at once differs, and segments are large: half of what these would take
    # is a good deal.
    expect_flat(before, usage.look(), shared=2 * KIB * KIB)


@pytest.mark.method("fork")
def test_sent_to_oneself(mp):
    """Also what nobody ever receives."""

    def cycle(times):
        for i in range(times):
            queue, (left, right) = mp.Queue(), mp.Pipe()
            for pair in make_pairs(mp):
                queue.put(pair)
                right.send(pair)
            if i % 2:
                for _ in range(EACH):
                    queue.get()
                    left.recv()

    cycle(30)
    before = usage.look()
    cycle(CYCLES // EACH)
    expect_flat(before, usage.look())


@pytest.mark.method("fork")
def test_ten_thousand_sent_take_few_descriptors(mp):
    queue = mp.Queue()
    before = usage.look()["descriptors"]
    locks = [mp.Lock() for _ in range(10_000)]
    queue.put(locks)
    received = queue.get()
    assert usage.look()["descriptors"] < before + 50
    assert len(received) == 10_000
    del received
    kept = []
    for lock in locks:
        queue.put(lock)
        kept.append(queue.get())
    assert usage.look()["descriptors"] < before + 100
