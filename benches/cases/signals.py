"""Events, conditions and barriers: how soon one process hears of what another did."""

from multiprocessing import RawValue  # the state beside a condition, the same for both modules

from timing import time_counted

from .base import case, race


@case("event-roundtrip", "Event round trip: two events, two processes", goal=5)
def event_round_trip(mp, budget):
    def run(count):
        there, back = mp.Event(), mp.Event()

        def ask():
            for _ in range(count):
                there.set()
                back.wait()
                back.clear()

        def serve():
            for _ in range(count):
                there.wait()
                there.clear()
                back.set()

        elapsed, _ = race(mp, ask, serve)
        return elapsed

    return time_counted(run, 200, budget)


def _time_turns(mp, budget, wait_for_turn):
    """Return seconds per round in which each of two processes waits for its turn."""

    def run(count):
        condition, turn = mp.Condition(), RawValue("i", 0)

        def player(me):
            def role():
                for _ in range(count):
                    with condition:
                        wait_for_turn(condition, lambda: turn.value == me)
                        turn.value = 1 - me
                        condition.notify()

            return role

        elapsed, _ = race(mp, player(0), player(1))
        return elapsed

    return time_counted(run, 200, budget)


@case("condition-roundtrip", "Condition round trip: wait, notify", goal=5)
def condition_round_trip(mp, budget):
    def wait_for_turn(condition, is_mine):
        while not is_mine():
            condition.wait()

    return _time_turns(mp, budget, wait_for_turn)


@case("condition-wait-for", "Condition round trip: wait_for, notify", goal=5)
def condition_wait_for(mp, budget):
    return _time_turns(mp, budget, lambda condition, is_mine: condition.wait_for(is_mine))


@case("condition-notify-all", "Condition: notify_all to 4, the last one answers", goal=2)
def condition_notify_all(mp, budget):
    waiters = 4

    def run(count):
        lock = mp.Lock()
        begun, done = mp.Condition(lock), mp.Condition(lock)
        number, heard = RawValue("i", 0), RawValue("i", 0)

        def call():
            for _ in range(count):
                with lock:
                    heard.value = 0
                    number.value += 1
                    begun.notify_all()
                    while heard.value < waiters:
                        done.wait()

        def hear():
            for expected in range(1, count + 1):
                with lock:
                    while number.value < expected:
                        begun.wait()
                    heard.value += 1
                    if heard.value == waiters:
                        done.notify()

        elapsed, _ = race(mp, call, *[hear] * waiters)
        return elapsed

    return time_counted(run, 50, budget)


def _register_barrier(parties, goal):
    @case(f"barrier-{parties}", f"Barrier of {parties}: one round", goal=goal)
    def measure(mp, budget):
        def run(count):
            barrier = mp.Barrier(parties)

            def role():
                return sum(barrier.wait() == 0 for _ in range(count))

            elapsed, firsts = race(mp, *[role] * parties)
            if sum(firsts) != count:
                raise ValueError("not each round had exactly one process number 0")
            return elapsed

        return time_counted(run, 50, budget)


_register_barrier(2, 5)
_register_barrier(4, 3)
