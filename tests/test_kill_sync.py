"""SIGKILL to those who wait, notify, meet and hold permits: wake-ups pass on, barriers break,
permits come back.
"""

import os
import signal
import statistics
import time
import warnings

import pytest
from children import conditions, victims
from children.common import look_at, wait_asleep, wait_until

pytestmark = [
    pytest.mark.fastmp_only("the stdlib does not survive it"),
    pytest.mark.filterwarnings("ignore::fastmp.OwnerDiedWarning"),
]


def stop(member):
    os.kill(member.pid, signal.SIGSTOP)
    wait_until(lambda: look_at(member.pid).state == "T", "the victim to stop")


def start_waiter(mp, crew, condition, target=conditions.wait_once):
    waiting, outcome = mp.RawValue("b"), mp.RawValue("b")
    member = crew.start(target, condition, waiting, outcome)
    wait_asleep(member.pid, waiting)
    return member, outcome


def test_the_wake_up_of_a_killed_waiter_passes_on(mp, crew):
    delays = []
    for _ in range(5):
        condition = mp.Condition()
        victim, _ = start_waiter(mp, crew, condition)
        heir, outcome = start_waiter(mp, crew, condition)
        stop(victim)
        with condition:
            condition.notify()  # it has waited longest
        late, late_outcome = start_waiter(mp, crew, condition)
        started = time.monotonic()
        crew.kill(victim)
        heir.join()
        delays.append(time.monotonic() - started)
        assert outcome.value == 1
        assert late_outcome.value == 0  # it was not there at the time
        with condition:
            condition.notify()
        late.join()
        assert late_outcome.value == 1
    print(f"passed on after {statistics.median(delays) * 1e3:.1f} ms, at worst {max(delays) * 1e3:.1f} ms")
    assert statistics.median(delays) < 1.0


def test_killed_waiters_use_up_no_wake_up_for_ever(mp, crew):
    condition = mp.Condition()
    for _ in range(4):
        crew.kill(start_waiter(mp, crew, condition)[0])
    for _ in range(2):
        survivor, outcome = start_waiter(mp, crew, condition)
        with condition:
            condition.notify()
        survivor.join()
        assert outcome.value == 1


def test_killed_notifier(mp, crew):
    """It dies with the lock in hand: the one it woke gets the lock, with a warning."""
    condition, granted = mp.Condition(), mp.RawValue("b")
    heir, outcome = start_waiter(mp, crew, condition, conditions.wait_and_count_warnings)
    notifier = crew.start(conditions.notify_then_hold, condition, granted)
    wait_until(lambda: granted.value)
    assert outcome.value == 0
    crew.kill(notifier)
    heir.join()
    assert heir.exitcode == 0
    assert outcome.value == 2
    assert condition._lock.recoveries == 1


def test_a_killed_party_breaks_the_barrier(mp, crew):
    delays = []
    for _ in range(5):
        barrier = mp.Barrier(4)
        outcomes = [mp.RawValue("d") for _ in range(3)]
        parties = [crew.start(conditions.meet_in_vain, barrier, outcome) for outcome in outcomes]
        wait_until(lambda barrier=barrier: barrier.n_waiting == 3)
        for party in parties:
            wait_asleep(party.pid)
        died = time.monotonic()
        crew.kill(parties[1])
        for party in (parties[0], parties[2]):
            party.join()
            assert party.exitcode == 0
        delays += [outcomes[0].value - died, outcomes[2].value - died]
        assert barrier.broken
        barrier.reset()
        assert (barrier.n_waiting, barrier.broken) == (0, False)
    print(f"broken after {statistics.median(delays) * 1e3:.1f} ms, at worst {max(delays) * 1e3:.1f} ms")
    assert min(delays) > 0
    assert statistics.median(delays) < 1.0


def test_a_party_killed_in_its_action_breaks_the_barrier(mp, crew):
    barrier, outcome = mp.Barrier(2, conditions.act_and_hang), mp.RawValue("d")
    other = crew.start(conditions.meet_in_vain, barrier, outcome)
    wait_until(lambda: barrier.n_waiting == 1)
    actor = crew.start(conditions.meet_in_vain, barrier, mp.RawValue("d"))
    wait_until(lambda: barrier.n_waiting == 2)
    wait_asleep(actor.pid)
    assert not barrier.broken
    crew.kill(actor)
    other.join()
    assert outcome.value
    assert barrier.broken


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_handlers_that_wait_put_off_no_look_at_the_holder(mp, crew, kind):
    """Each handler's own wait begins and ends between two tries of the wait that it interrupts."""
    lock = mp.Semaphore(1, recover=True) if kind == "Semaphore" else getattr(mp, kind)()
    held, waiting = mp.RawValue("b"), mp.RawValue("b")
    holder = crew.start(victims.hold_for_ever, lock, held)
    wait_until(lambda: held.value)
    heir = crew.start(victims.take_while_handlers_wait, lock, mp.Event(), waiting)
    wait_until(lambda: waiting.value)
    # Left a zombie, which the heir cannot wait for itself.
    os.kill(holder.pid, signal.SIGKILL)
    heir.join(50)
    assert heir.exitcode == 0


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
class TestRecover:
    def test_permits_of_a_killed_holder_come_back(self, mp, crew, kind):
        semaphore, held = getattr(mp, kind)(3, recover=True), mp.RawValue("b")
        assert semaphore.acquire()
        holder = crew.start(conditions.hold_permits, semaphore, 2, held)
        wait_until(lambda: held.value)
        assert semaphore.get_value() == 0
        assert semaphore.acquire(timeout=0.15) is False  # it lives
        crew.kill(holder)
        for _ in range(2):
            with pytest.warns(RuntimeWarning, match=str(holder.pid)):
                assert semaphore.acquire(timeout=50) is True
        assert semaphore.recoveries == 2
        assert semaphore.acquire(False) is False
        for _ in range(3):
            semaphore.release()
        assert semaphore.get_value() == 3
        with pytest.raises(ValueError):
            semaphore.release()

    def test_a_waiter_gets_it(self, mp, crew, kind):
        semaphore, held = getattr(mp, kind)(1, recover=True), mp.RawValue("b")
        holder = crew.start(conditions.hold_permits, semaphore, 1, held)
        wait_until(lambda: held.value)
        waiting, taken = mp.RawValue("b"), mp.RawValue("d")
        heir = crew.start(victims.take_with_time, semaphore, waiting, taken)
        wait_asleep(heir.pid, waiting)
        assert not taken.value
        died = time.monotonic()
        crew.kill(holder)
        heir.join()
        print(f"recovered after {(taken.value - died) * 1e3:.1f} ms")
        assert taken.value >= died

    def test_one_who_polls_gets_it(self, mp, crew, kind):
        """Also if each wait is over before it would look at a zombie that is not its own."""
        semaphore, held, waiting = getattr(mp, kind)(1, recover=True), mp.RawValue("b"), mp.RawValue("b")
        holder = crew.start(conditions.hold_permits, semaphore, 1, held)
        wait_until(lambda: held.value)
        heir = crew.start(victims.take_by_polls, semaphore, waiting)
        wait_until(lambda: waiting.value)
        os.kill(holder.pid, signal.SIGKILL)
        heir.join()
        assert heir.exitcode == 0

    def test_a_warning_as_an_error_gives_the_permit_back(self, mp, crew, kind):
        semaphore, held = getattr(mp, kind)(1, recover=True), mp.RawValue("b")
        holder = crew.start(conditions.hold_permits, semaphore, 1, held)
        wait_until(lambda: held.value)
        crew.kill(holder)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning):
                semaphore.acquire()
        assert semaphore.get_value() == 1

    def test_who_holds_none_cannot_release(self, mp, crew, kind):
        semaphore, outcome = getattr(mp, kind)(2, recover=True), mp.RawValue("b")
        semaphore.acquire()
        crew.run(conditions.look_after_release, semaphore, outcome)
        assert outcome.value == 1
        semaphore.release()
        with pytest.raises(ValueError):
            semaphore.release()

    def test_looks(self, mp, kind):
        semaphore = getattr(mp, kind)(2, recover=True)
        assert repr(semaphore).startswith(f"<{kind}(value=2")
        with semaphore:
            assert semaphore.get_value() == 1
        assert (semaphore.maxvalue, semaphore.recoveries) == (2, 0)
        with pytest.raises((OSError, ValueError)):
            getattr(mp, kind)(-1, recover=True)
        with pytest.raises(ValueError, match="at most"):
            getattr(mp, kind)(10**6, recover=True)
        # Nobody could ever give one back.
        with pytest.raises(ValueError, match="at least one"):
            getattr(mp, kind)(0, recover=True)


def test_a_waiter_killed_before_it_has_the_lock_again_leaves_the_wake_up_to_another(mp, crew):
    condition = mp.Condition()
    victim, outcome = start_waiter(mp, crew, condition)
    heir, heir_outcome = start_waiter(mp, crew, condition)
    with condition:
        condition.notify()
        wait_until(lambda: condition._condvar.waiters() == 1)  # it is awake, and has to wait for the lock
        wait_asleep(victim.pid)
        crew.kill(victim)
    heir.join()
    assert (outcome.value, heir_outcome.value) == (0, 1)


def test_a_warning_s_hook_may_read_what_it_is_about(mp, crew):
    value, held, seen = mp.Value("i", 5, lock=mp.Lock()), mp.RawValue("b"), []
    crew.kill(hold(mp, crew, value.get_lock(), held))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *args, **kwargs: seen.append(value.value)
        assert value.value == 5
    assert seen == [5]


def hold(mp, crew, lock, held):
    holder = crew.start(victims.hold_for_ever, lock, held, 1)
    wait_until(lambda: held.value)
    return holder
