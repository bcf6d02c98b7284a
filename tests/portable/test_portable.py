"""The portable fastmp: the stdlib under fastmp's names, and what it says of what it has not."""

import ast
import importlib
import inspect
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import fastmp
import numpy
import pytest

NATIVE = Path(__file__).resolve().parents[2] / "python" / "fastmp" / "__init__.py"
METHODS = multiprocessing.get_all_start_methods()


def names_of_the_native_one():
    for node in ast.parse(NATIVE.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError("no __all__")


def test_it_is_told_from_the_native_one():
    assert fastmp.accelerated is False
    assert "fastmp._native" not in sys.modules


def test_all_names_are_there():
    assert fastmp.__all__ == names_of_the_native_one()
    space = {}
    exec("from fastmp import *", space)
    assert set(fastmp.__all__) <= set(space)
    for name in fastmp.__all__:
        assert getattr(fastmp, name) is space[name] or getattr(fastmp, name) == space[name]


@pytest.mark.parametrize(
    "name",
    sorted(path.stem for path in NATIVE.parent.glob("*.py") if path.stem in fastmp._submodules - {"unchanged"}),
)
def test_modules_have_all_that_the_stdlibs_have(name):
    ours = importlib.import_module(f"fastmp.{name}")
    theirs = importlib.import_module("concurrent.futures" if name == "futures" else f"multiprocessing.{name}")
    assert getattr(fastmp, name) is ours
    for each in dir(theirs):
        if not each.startswith("__"):
            assert hasattr(ours, each), each


@pytest.mark.parametrize("method", METHODS)
def test_objects_are_the_stdlibs(method):
    context = fastmp.get_context(method)
    for name in "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Queue", "SimpleQueue":
        made, theirs = getattr(context, name)(), getattr(multiprocessing.get_context(method), name)()
        assert isinstance(made, type(theirs)), name
    assert isinstance(context.Process(), multiprocessing.process.BaseProcess)
    assert isinstance(context.Value("i"), multiprocessing.sharedctypes.Synchronized)


OURS_ALONE = {
    "get_context(pickler=...)": lambda mp: mp.get_context(pickler=pickle),
    "Lock().owner": lambda mp: mp.Lock().owner,
    "Lock().recoveries": lambda mp: mp.Lock().recoveries,
    "RLock().owner": lambda mp: mp.RLock().owner,
    "RLock().recoveries": lambda mp: mp.RLock().recoveries,
    "Semaphore().recoveries": lambda mp: mp.Semaphore().recoveries,
    "BoundedSemaphore().recoveries": lambda mp: mp.BoundedSemaphore().recoveries,
    "Semaphore(recover=True)": lambda mp: mp.Semaphore(2, recover=True),
    "BoundedSemaphore(recover=True)": lambda mp: mp.BoundedSemaphore(2, recover=True),
    "fetch_add": lambda mp: mp.Value("i").fetch_add(1),
    "fetch_sub": lambda mp: mp.Value("i").fetch_sub(1),
    "fetch_or": lambda mp: mp.Value("i").fetch_or(1),
    "fetch_and": lambda mp: mp.Value("i").fetch_and(1),
    "fetch_xor": lambda mp: mp.Value("i").fetch_xor(1),
    "exchange": lambda mp: mp.Value("i").exchange(1),
    "Broadcast": lambda mp: mp.Broadcast(8, lag="skip"),
    "Queue(max_bytes=)": lambda mp: mp.Queue(max_bytes=1),
    "JoinableQueue(max_bytes=)": lambda mp: mp.JoinableQueue(max_bytes=1),
    "get(watch=)": lambda mp: mp.Queue().get(watch=[]),
    "get_async": lambda mp: mp.Queue().get_async(),
    "put_async": lambda mp: mp.JoinableQueue().put_async(1),
    "get_many": lambda mp: mp.Queue().get_many(1),
    "put_many": lambda mp: mp.Queue().put_many([1], timeout=1),
    "shutdown": lambda mp: mp.Queue().shutdown(immediate=True),
    "stats": lambda mp: mp.JoinableQueue().stats(),
    "join(on_death=)": lambda mp: mp.JoinableQueue().join(on_death="raise"),
    "compare_exchange": lambda mp: mp.Value("i").compare_exchange(0, 1),
}


@pytest.mark.parametrize("use", OURS_ALONE.values(), ids=OURS_ALONE)
@pytest.mark.parametrize("method", [None, *METHODS])
def test_what_only_fastmp_has_names_the_platform(method, use):
    mp = fastmp if method is None else fastmp.get_context(method)
    with pytest.raises(NotImplementedError, match=sys.platform):
        use(mp)
    assert mp.Semaphore(2, recover=False).acquire()


def test_inspection_goes_on():
    lock = fastmp.Lock()
    assert not hasattr(lock, "owner")
    assert getattr(lock, "recoveries", 7) == 7
    assert "acquire" in dict(inspect.getmembers(lock))


def test_what_is_a_view_everywhere():
    array = fastmp.Array("i", 3)
    numpy.asarray(array)[1] = 5
    numpy.frombuffer(array.get_obj(), "i4")[2] = 6
    assert array[:] == [0, 5, 6]
    for copy in numpy.array(array), numpy.asarray(array, "f8"), numpy.array(array, "f8"):
        copy[0] = 7
        assert copy.tolist() == [7, 5, 6]
    assert array[:] == [0, 5, 6]
    assert bytes(array) == bytearray(array) == b"\x00\x05\x06"  # as the stdlib's: its items
    text = fastmp.Array("c", b"text")
    assert (text.value, text.raw, text[1]) == (b"text", b"text", b"e")


def try_both(value, lock, out):
    for use in (lambda: value.fetch_add(1), lambda: lock.owner):
        try:
            use()
        except NotImplementedError:
            out.put(True)
        else:
            out.put(False)


@pytest.mark.parametrize("method", METHODS)
def test_so_it_is_in_children(method):
    mp = fastmp.get_context(method)
    value, lock, out = (
        mp.Value("i"),
        mp.Lock(),
        mp.SimpleQueue(),
    )  # the stdlib's have to be kept until the child has them
    child = mp.Process(target=try_both, args=(value, lock, out))
    child.start()
    assert [out.get(), out.get()] == [True, True]
    child.join()


def test_errors_can_be_named_and_travel():
    assert issubclass(fastmp.OwnerDiedWarning, RuntimeWarning)
    assert issubclass(fastmp.CorruptedError, RuntimeError)
    assert str(pickle.loads(pickle.dumps(fastmp.CorruptedError("so")))) == "so"


def test_importing_costs_little_more_than_the_stdlib():
    code = "import sys, fastmp; print(sorted(name for name in sys.modules if name.startswith('multiprocessing.')))"
    loaded = ast.literal_eval(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode()
    )
    code = code.replace("fastmp", "multiprocessing")
    theirs = ast.literal_eval(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode()
    )
    assert loaded == theirs


@pytest.mark.parametrize("module", ["_multiprocessing", "_ctypes"])
def test_it_can_be_imported_where_the_stdlib_can(module):
    """Not every system has semaphores, or ctypes."""
    code = f"import sys; sys.modules[{module!r}] = None; import fastmp; print(fastmp.get_all_start_methods())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_newer_names():
    for make in fastmp.Lock, fastmp.RLock, fastmp.Semaphore, fastmp.BoundedSemaphore:
        lock = make()
        assert lock.locked() is False
        with lock:
            assert lock.locked() is True


def test_a_context_that_a_library_has_registered(monkeypatch):
    theirs = multiprocessing.get_context("spawn")
    monkeypatch.setitem(multiprocessing.context._concrete_contexts, "somebodys", theirs)
    assert fastmp.get_context("somebodys") is theirs
    with pytest.raises(ValueError, match="bogus"):
        fastmp.get_context("bogus")
