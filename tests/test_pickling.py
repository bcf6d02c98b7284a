"""What does not pickle where a process is started, what the error says, and other picklers."""

import functools
import multiprocessing
import multiprocessing.reduction
import os
import pickle
import subprocess
import sys
import threading
import time
import types

import fastmp
import pytest
from children import pickled, processes
from fastmp import pickling_errors

pytestmark = pytest.mark.skipif(not fastmp.accelerated, reason="for fastmp's core alone")

SENT = ["spawn", "forkserver"]
LOCK = threading.Lock()


def work(*args, **kwargs):
    pass


def failure(method, pickler=None, **what):
    """The error that such a process does not start with, and the stdlib's."""
    ours = fastmp.get_context(method, pickler=pickler).Process(**what)
    with pytest.raises(Exception) as caught:
        ours.start()
    assert ours.exitcode is None and not ours.is_alive() and ours._popen is None
    with pytest.raises(Exception) as known:
        multiprocessing.get_context(method).Process(**what).start()
    return caught.value, known.value


def generator():
    yield 1


CASES = {
    "lambda": (lambda: {"target": lambda: 1}, "target", "top level of a module"),
    "closure": (lambda: {"target": pickled.closure_over(1)}, "target", "top level of a module"),
    "a method of a local class": (
        lambda: {"target": pickled.local_class()().method},
        "target.__self__.__class__",
        "define the class at the top level",
    ),
    "a lock in a dict in a dataclass": (
        lambda: {"target": work, "args": (pickled.Job({"lock": LOCK}),)},
        "args[0].state['lock']",
        "fastmp.Lock()",
    ),
    "a recursive lock": (lambda: {"target": work, "args": (threading.RLock(),)}, "args[0]", "fastmp.Lock()"),
    "kwargs": (lambda: {"target": work, "kwargs": {"one": 1, "two": [LOCK]}}, "kwargs['two'][0]", "fastmp.Lock()"),
    "a file": (lambda: {"target": work, "args": (open(os.devnull),)}, "args[0]", "open it in the child"),  # noqa: SIM115
    "a generator": (lambda: {"target": work, "args": (generator(),)}, "args[0]", "make it in the child"),
    "a module": (lambda: {"target": work, "args": ([sys],)}, "args[0][0]", "the module's name"),
    "slots": (lambda: {"target": work, "args": (pickled.Slots(LOCK),)}, "args[0].lock", "fastmp.Lock()"),
    "a set": (lambda: {"target": work, "args": ({work, LOCK},)}, f"args[0]{{{LOCK!r}}}", "fastmp.Lock()"),
    "a key": (lambda: {"target": work, "args": ({LOCK: 1},)}, f"args[0].key({LOCK!r})", "fastmp.Lock()"),
    "a partial": (
        lambda: {"target": functools.partial(work, 1, deep={"x": LOCK})},
        "target.keywords['deep']['x']",
        "fastmp.Lock()",
    ),
    "an exception": (lambda: {"target": work, "args": (KeyError(1, LOCK),)}, "args[0].args[1]", "fastmp.Lock()"),
    "a cycle": (lambda: {"target": work, "args": (pickled.cyclic(LOCK),)}, "args[0][2][0]", "fastmp.Lock()"),
    "among many": (
        lambda: {"target": work, "args": ([*range(1000), *([n] for n in range(1000)), {1: LOCK}, *range(1000)],)},
        "args[0][2000][1]",
        "fastmp.Lock()",
    ),
    "the program's own": (
        lambda: {"target": work, "args": (1, [pickled.Counting(ValueError, "mine")])},
        "args[1][0]",
        "__getstate__",
    ),
}


@pytest.mark.parametrize("method", SENT)
@pytest.mark.parametrize("case", CASES)
def test_the_error_says_what_where_and_what_to_do(method, case):
    make, path, advice = CASES[case]
    error, known = failure(method, **make())
    assert type(error) is type(known)
    first, *rest = str(error).splitlines()
    of_stdlib = str(known).partition(" at 0x")[0].partition("function ")[0]
    assert first.startswith(f"{path} does not pickle: {of_stdlib}")
    assert advice in str(error)
    assert f"{method!r}" in str(error)
    assert any("get_context('fork')" in line for line in rest)
    assert not hasattr(error, "__notes__") or error.__notes__ == []
    assert ("pickler=cloudpickle" in str(error)) == (
        case in ("lambda", "closure", "a method of a local class", "a module")
    )


@pytest.mark.parametrize("method", SENT)
def test_an_attribute_of_a_subclass(method):
    context = fastmp.get_context(method)
    child = context.Process(target=work)
    child.callback = {"on_end": pickled.Job(LOCK)}
    with pytest.raises(TypeError, match=r"^self\.callback\['on_end'\]\.state does not pickle: cannot pickle"):
        child.start()


class Suggesting:
    def __reduce__(self):
        return "".jion(["x"])


def test_errors_that_suggest_something_get_a_note():
    error, known = failure("spawn", target=work, args=(Suggesting(),))
    assert type(error) is AttributeError
    assert str(error) == str(known)
    assert error.__notes__[0].startswith("args[0] does not pickle. It is <test_pickling.Suggesting")


def test_other_errors_get_a_note():
    error, known = failure("spawn", target=work, args=(pickled.Counting(KeyError, "mine"),))
    assert type(error) is type(known) is KeyError
    assert error.args == ("mine",)
    assert error.__notes__[0].startswith("args[0] does not pickle. It is <children.pickled.Counting")


@pytest.mark.parametrize("raised", [(MemoryError, "no more"), (OSError, 24, "too many")])
def test_what_is_not_about_objects_stays_as_it_is(raised):
    counting = pickled.Counting(*raised)
    error, _ = failure("spawn", target=work, args=(counting,))
    assert (type(error), *error.args) == raised
    assert not any("does not pickle" in note for note in getattr(error, "__notes__", ()))
    assert counting.asked == 2  # ours and the stdlib's


def test_an_interrupt_passes():
    child = fastmp.get_context("spawn").Process(target=work, args=(pickled.Counting(KeyboardInterrupt),))
    with pytest.raises(KeyboardInterrupt):
        child.start()


@pytest.mark.parametrize("method", SENT)
def test_too_deep(method):
    deep = []
    for _ in range(200_000):
        deep = [deep]
    child = fastmp.get_context(method).Process(target=work, args=(1, deep))
    with pytest.raises(RecursionError, match=r"^args\[1\] does not pickle: .* while pickling an object\n"):
        child.start()


class Slow:
    def __reduce__(self):
        time.sleep(0.3)
        return list, ()


@pytest.mark.timeout(120)
def test_the_search_ends(monkeypatch):
    """However long pickling takes, it is done a few times only; and what has been found is said."""
    monkeypatch.setattr(pickling_errors, "LIMIT", 0.5)
    slow = [Slow() for _ in range(3)]
    started = time.monotonic()
    with pytest.raises(TypeError, match=r"^args.* does not pickle: cannot pickle"):
        fastmp.get_context("spawn").Process(target=work, args=([slow, [slow, [slow, LOCK]]],)).start()
    # With every part tried for itself it would be dozens of them.
    assert time.monotonic() - started < 30


def test_the_search_pickles_for_nobody():
    """What it tries is lent to no child, and leaves no descriptor behind."""
    lock, pipe, queue = fastmp.Lock(), fastmp.Pipe(), fastmp.Queue()
    counts = []
    for _ in range(4):
        with pytest.raises(TypeError, match=r"^args\[3\] does not pickle"):
            fastmp.get_context("spawn").Process(target=work, args=(lock, pipe, queue, LOCK)).start()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[1] == counts[-1]
    assert multiprocessing.context.get_spawning_popen() is None
    with lock:
        queue.put(1)
        assert queue.get() == 1


class Hostile:
    """Whatever one asks it raises."""

    def __repr__(self):
        raise RuntimeError("no repr")

    def __reduce_ex__(self, protocol):
        raise TypeError(self)


def test_an_error_that_cannot_be_told_stays():
    error, known = failure("spawn", target=work, args=(Hostile(),))
    assert type(error) is type(known) is TypeError
    assert isinstance(error.args[0], Hostile)


def test_pool_objects():
    with fastmp.get_context("fork").Pool(1) as pool:
        error, _ = failure("spawn", target=work, args=([pool],))
    assert type(error) is NotImplementedError
    assert str(error).startswith("args[0][0] does not pickle: pool objects cannot be passed between processes")


# Sending


def sends(kind):
    """A function that sends what it is given, through a channel of that kind."""
    if kind == "Connection":
        keep = fastmp.Pipe()
        return keep[0].send, keep
    keep = getattr(fastmp, kind)()
    return keep.put, keep


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue", "Connection"])
def test_what_a_channel_cannot_send(kind):
    send, keep = sends(kind)
    with pytest.raises(
        TypeError, match=r"^obj\[1\]\['x'\]\.state does not pickle: cannot pickle '_thread.lock'"
    ) as caught:
        send([fastmp.Lock(), {"x": pickled.Job(LOCK)}])
    assert "fastmp.Lock()" in str(caught.value)
    assert "get_context" not in str(caught.value)
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"^obj does not pickle") as caught:
        send(lambda: 1)
    assert "cloudpickle.dumps" in str(caught.value)
    receive = keep[1].recv if kind == "Connection" else keep.get
    send(5)
    assert receive() == 5


def test_other_ways_to_send():
    queue = fastmp.Queue()
    with pytest.raises(TypeError, match=r"^obj\['x'\] does not pickle"):
        queue.put_many([1, {"x": LOCK}])
    with pytest.raises(TypeError, match=r"^obj\['x'\] does not pickle"):
        queue.put_async({"x": LOCK})
    with pytest.raises(TypeError, match=r"^obj\['x'\] does not pickle"):
        fastmp.Broadcast().send({"x": LOCK})


def test_an_interrupt_while_the_part_is_looked_for(monkeypatch):
    def interrupted(error, obj):
        raise KeyboardInterrupt

    monkeypatch.setattr(pickling_errors, "explain_sending", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastmp.Queue().put(LOCK)
    monkeypatch.setattr(pickling_errors, "explain_sending", None)
    with pytest.raises(TypeError, match="^cannot pickle"):
        fastmp.Queue().put(LOCK)


def test_a_message_that_is_too_deep():
    deep = []
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(RecursionError, match="^obj does not pickle"):
        fastmp.Queue().put([1, deep])


# Other picklers


@pytest.fixture(params=["cloudpickle", "dill"])
def pickler(request):
    found = pytest.importorskip(request.param)
    try:
        found.dumps(lambda: 1)
    except AttributeError:
        pytest.skip(f"{request.param} does not know this version of Python")
    return found


@pytest.mark.parametrize("method", ["fork", *SENT])
def test_lambdas_and_closures(method, pickler):
    """With objects of ours in what they close over."""
    context = fastmp.get_context(method, pickler=pickler)
    lock, queue, (mine, yours), value = context.Lock(), context.Queue(), context.Pipe(), context.Value("i", 3)
    number = 4

    def closure(add):
        with lock, value.get_lock():
            value.value += number
        queue.put((add(number), fastmp.current_process().name))
        yours.send(multiprocessing.get_start_method())

    child = context.Process(target=closure, args=(lambda x: x + 1,), name="a child")
    child.start()
    assert queue.get() == (5, "a child")
    assert mine.recv() == method
    child.join()
    assert (child.exitcode, value.value) == (0, 7)


@pytest.mark.parametrize("method", SENT)
def test_local_classes(method, pickler):
    context = fastmp.get_context(method, pickler=pickler)
    out = context.SimpleQueue()

    class Worker(context.Process):
        def __init__(self, thing):
            super().__init__()
            self.thing = thing

        def run(self):
            out.put((self.thing(), type(self).__name__, self.pid == os.getpid(), type(self)._start_method))

    child = Worker(lambda: 5)
    child.start()
    assert out.get() == (5, "Worker", True, method)
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("method", SENT)
def test_pools(method, pickler):
    context = fastmp.get_context(method, pickler=pickler)
    value = context.Value("i", 0)
    with context.Pool(1, initializer=lambda: setattr(value, "value", 3)) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
    assert value.value == 3


def test_the_context_itself_goes_along(pickler):
    context = fastmp.get_context("spawn", pickler=pickler)
    out = context.SimpleQueue()

    def child():
        number = 5
        grandchild = context.Process(target=lambda: out.put(number))
        grandchild.start()
        grandchild.join()
        out.put((type(context).__name__, context.get_start_method(), grandchild.exitcode))

    process = context.Process(target=child)
    process.start()
    assert out.get() == 5
    assert out.get() == ("SpawnContext", "spawn", 0)
    process.join()


def test_contexts_and_their_picklers():
    cloudpickle = pytest.importorskip("cloudpickle")
    context = fastmp.get_context("spawn", pickler=cloudpickle)
    assert fastmp.get_context("spawn", pickler=cloudpickle) is context
    assert fastmp.get_context("spawn") is not context
    assert context.get_context() is context
    assert context.get_start_method() == "spawn"
    assert isinstance(context, type(fastmp.get_context("spawn")))
    assert issubclass(context.Process, fastmp.get_context("spawn").Process)
    assert context.Process.__name__ == "SpawnProcess"
    assert context.Process(target=work).name.startswith("SpawnProcess-")
    assert fastmp.get_context("forkserver", pickler=cloudpickle).get_start_method() == "forkserver"
    assert fastmp.get_context(pickler=cloudpickle).get_start_method() == fastmp.get_start_method()
    again = pickle.loads(pickle.dumps(context))
    assert again is context
    for wrong in (5, object(), sys):
        with pytest.raises(TypeError, match="a pickler has"):
            fastmp.get_context("spawn", pickler=wrong)
    with pytest.raises(ValueError):
        fastmp.get_context("bogus", pickler=cloudpickle)


class Own(pickle.Pickler):
    """A class of picklers, which numbers are doubled by."""

    def reducer_override(self, obj):
        return (int, ("7",)) if obj is work else NotImplemented


@pytest.mark.parametrize("pickler", [pickle, Own])
def test_classes_of_picklers(pickler):
    """They know what the stdlib's knows: a ctypes object stays shared."""
    context = fastmp.get_context("spawn", pickler=pickler)
    out = context.RawValue("i")
    child = context.Process(target=processes.store, args=(out, 3), kwargs={"factor": 2})
    child.start()
    child.join()
    assert (child.exitcode, out.value) == (0, 6)


@pytest.mark.parametrize("pickler", [pickled.PlainPickler, pickled.PlainPickler()])
def test_picklers_with_a_format_of_their_own(pickler):
    context = fastmp.get_context("spawn", pickler=pickler)
    queue, lock = context.JoinableQueue(), context.Lock()
    out = context.Queue()
    child = context.Process(target=processes.double, args=(queue, out))
    child.lock = lock
    child.start()
    queue.put(21)
    queue.put(None)
    assert out.get() == 42
    child.join()
    assert child.exitcode == 0


def test_a_pickler_that_is_defined_again():
    """As in a notebook: both serve."""
    first, second = (type("Again", (pickle.Pickler,), {}) for _ in range(2))
    for pickler in (first, second, first):
        pickler.__module__ = "test_pickling"
        context = fastmp.get_context("spawn", pickler=pickler)
        assert context.Process._pickler is pickler
        out = context.RawValue("i")
        child = context.Process(target=processes.store, args=(out, 3))
        child.start()
        child.join()
        assert (child.exitcode, out.value) == (0, 3)


def test_names_of_classes_that_are_none():
    for name in ("Bogus/pickle", "/", "SpawnProcess/#5", "SpawnProcess/no_such_module"):
        if name.startswith("Spawn"):
            assert getattr(fastmp.process, name) is fastmp.get_context("spawn").Process
        else:
            assert not hasattr(fastmp.process, name)


def test_what_another_pickler_takes_no_more_than_pickle(pickler):
    error, _ = failure("spawn", pickler, target=work, args=([generator()],))
    assert type(error) is TypeError
    assert str(error).startswith("args[0][0] does not pickle: cannot pickle 'generator' object")
    assert f"by {pickler.__name__}" in str(error)
    assert "pickler=" not in str(error)


def test_a_variable_of_a_closure():
    cloudpickle = pytest.importorskip("cloudpickle")
    error, _ = failure("spawn", cloudpickle, target=pickled.closure_over({"x": [LOCK]}))
    assert str(error).startswith("target.<variable value>['x'][0] does not pickle: cannot pickle")


@pytest.mark.parametrize("obj", [LOCK, types.MappingProxyType({})])
def test_registrations_are_honoured(obj, monkeypatch):
    """Those of the program come before the pickler's own, which cloudpickle has of the second."""
    cloudpickle = pytest.importorskip("cloudpickle")
    registered = multiprocessing.reduction.ForkingPickler._extra_reducers
    monkeypatch.setitem(registered, type(obj), lambda obj: (str, ("registered",)))
    context = fastmp.get_context("spawn", pickler=cloudpickle)
    out = context.SimpleQueue()
    child = context.Process(target=lambda got: out.put(got), args=(obj,))
    child.start()
    assert out.get() == "registered"
    child.join()


SCRIPT = """
import importlib, sys
import fastmp
print("imported as", __name__, flush=True)
method, name = sys.argv[1:]
context = fastmp.get_context(method, pickler=importlib.import_module(name))
factor = 2

class Item:
    def __init__(self, n):
        self.n = n

def double(item):
    return Item(item.n * factor)

if __name__ == "__main__":
    out = context.SimpleQueue()
    child = context.Process(target=lambda item: out.put(double(item).n), args=(Item(21),))
    child.start()
    print(out.get())
    child.join()
    print(child.exitcode)
"""


@pytest.mark.parametrize("method", SENT)
def test_a_main_module_is_imported_once(method, pickler, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), method, pickler.__name__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split("\n")) == sorted(["imported as __main__", "imported as __mp_main__", "42", "0", ""])


def test_a_main_module_that_cannot_be_imported(pickler):
    """As a notebook's."""
    code = SCRIPT.replace("method, name = sys.argv[1:]", f"method, name = 'spawn', {pickler.__name__!r}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == ["imported as __main__", "42", "0", ""]


REDUCER = """
import io, multiprocessing.reduction, pickle, sys
import fastmp

class Reducer(multiprocessing.reduction.AbstractReducer):
    @staticmethod
    def dump(obj, file, protocol=None):
        print("dumped", type(obj).__name__, flush=True)
        multiprocessing.reduction.ForkingPickler(file, protocol).dump(obj)

if __name__ == "__main__":
    context = fastmp.get_context("spawn")
    context.reducer = Reducer
    assert context.reducer is Reducer is fastmp.get_context("fork").reducer
    child = context.Process(target=print, args=("child",))
    child.start()
    child.join()
"""


def test_the_programs_reducer_is_honoured(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(REDUCER)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == ["dumped dict", "dumped SpawnProcess", "child", ""]


def test_nothing_of_this_is_imported_for_nothing():
    code = (
        "import sys, fastmp\n"
        "if __name__ == '__main__':\n"
        "    child = fastmp.get_context('spawn').Process(target=print); child.start(); child.join()\n"
        "    print(*(n for n in sys.modules if n in ('fastmp.picklers', 'fastmp.pickling_errors', 'inspect')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\n\n", "")
