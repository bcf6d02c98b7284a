"""`install()`: what `multiprocessing` means then, to whom, in which processes, and how it is undone.

Each test runs a program of its own: what is installed here would be in every other test. Long, for
it holds all tests of one function.
"""

import queue
import subprocess
import sys
import textwrap

import fastmp
import pytest

pytestmark = pytest.mark.skipif(not fastmp.accelerated, reason="fastmp's core alone")

METHODS = "fork", "spawn", "forkserver"


def run(tmp_path, program, *arguments, **files):
    """Runs a program in a directory that has these modules too; returns what it prints."""
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, "program.py", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_name_that_fastmp_offers(tmp_path):
    run(
        tmp_path,
        """
        import fastmp
        fastmp.install()
        import importlib
        import multiprocessing

        for name in multiprocessing.__all__:
            assert getattr(multiprocessing, name) == getattr(fastmp, name), name
        for module in "connection", "context", "pool", "queues", "sharedctypes", "synchronize":
            theirs = importlib.import_module(f"multiprocessing.{module}")
            ours = importlib.import_module(f"fastmp.{module}")
            for name in set(ours.__all__) & set(vars(theirs)) - {"Connection"}:
                assert getattr(theirs, name) is getattr(ours, name), (module, name)
        from multiprocessing.queues import JoinableQueue, Queue
        from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
        from multiprocessing import synchronize

        ctx = multiprocessing.get_context("spawn")
        assert isinstance(ctx, multiprocessing.context.SpawnContext)
        assert isinstance(ctx.Queue(), Queue) and isinstance(multiprocessing.JoinableQueue(), JoinableQueue)
        assert isinstance(multiprocessing.Value("i"), Synchronized)
        assert isinstance(ctx.Array("i", 2), SynchronizedArray)
        for name in "Lock", "RLock", "Event", "Condition", "Semaphore", "BoundedSemaphore":
            assert isinstance(getattr(ctx, name)(), getattr(synchronize, name)), name
        assert isinstance(ctx.Barrier(1), synchronize.Barrier)
        assert isinstance(ctx.Pipe()[0], multiprocessing.connection.Connection)
        assert isinstance(ctx.Process(), multiprocessing.process.BaseProcess)
        assert isinstance(ctx.Lock(), fastmp.synchronize.Lock)
        """,
    )


def test_what_the_stdlib_makes_is_of_the_classes_that_are_found(tmp_path):
    run(
        tmp_path,
        """
        import fastmp
        fastmp.install()
        import multiprocessing, multiprocessing.pool, threading
        from multiprocessing.connection import Client, Connection, Listener

        with Listener() as listener:
            thread = threading.Thread(target=lambda: isinstance(listener.accept(), Connection) or 1 / 0)
            thread.start()
            with Client(listener.address) as client:
                assert isinstance(client, Connection)
                thread.join()
        assert all(isinstance(end, Connection) for end in multiprocessing.Pipe())
        with multiprocessing.pool.ThreadPool(1) as pool:
            assert isinstance(pool, multiprocessing.pool.Pool)
            assert isinstance(pool.apply_async(abs, (1,)), multiprocessing.pool.AsyncResult)
        """,
    )


def test_star_import_and_dynamic_looks(tmp_path):
    run(
        tmp_path,
        """
        import fastmp
        fastmp.install()
        names = {"__name__": "elsewhere"}
        exec("from multiprocessing import *", names)
        assert names["Queue"] == fastmp.Queue
        import operator, pkgutil, multiprocessing
        assert operator.attrgetter("context.SpawnContext")(multiprocessing) is fastmp.context.SpawnContext
        assert pkgutil.resolve_name("multiprocessing.queues:Queue") is fastmp.queues.Queue
        for name in "nothing", "_nothing", "__nothing__", "popen_spawn_win32":
            try:
                getattr(multiprocessing, name)
            except AttributeError as error:
                assert str(error) == f"module 'multiprocessing' has no attribute {name!r}"
            else:
                raise AssertionError(name)
        try:
            from multiprocessing import nothing
        except ImportError:
            pass
        # The stdlib's functions import these for who uses them.
        for name in "connection", "managers", "pool", "queues", "shared_memory", "synchronize":
            assert getattr(multiprocessing, name).__name__ == f"multiprocessing.{name}"
        """,
    )


def test_who_asks_without_a_frame(tmp_path):
    """C code that no Python code has called: at the exit, in a thread of its own."""
    run(
        tmp_path,
        """
        import fastmp
        fastmp.install()
        import atexit, concurrent.futures, multiprocessing, multiprocessing.managers, operator
        atexit.register(getattr, multiprocessing, "Queue")
        atexit.register(getattr, multiprocessing, "none", None)
        concurrent.futures.ProcessPoolExecutor  # which cannot be imported at the exit
        atexit.register(getattr, concurrent.futures, "ProcessPoolExecutor")
        atexit.register(operator.methodcaller("get_context"), multiprocessing.managers)
        """,
    )


def test_who_has_bound_a_name_keeps_it(tmp_path):
    run(
        tmp_path,
        """
        from multiprocessing import Queue, queues
        from multiprocessing.synchronize import Lock
        import multiprocessing
        import fastmp

        fastmp.install()
        assert type(Queue()).__module__ == "multiprocessing.queues"
        assert Lock.__module__ == "multiprocessing.synchronize"
        # But what it looks up in a module from now on is ours.
        assert type(multiprocessing.Queue()).__module__ == queues.Queue.__module__ == "fastmp.queues"
        # The stdlib's own objects work on, inside too.
        theirs = queues.__dict__["JoinableQueue"](ctx=multiprocessing.__dict__["get_context"]())
        theirs.put(1)
        assert theirs.get() == 1
        theirs.task_done()
        theirs.join()

        import concurrent.futures
        ours = multiprocessing.Process
        fastmp.uninstall()
        assert ours is fastmp.Process
        assert multiprocessing.Queue == Queue
        assert multiprocessing.synchronize.Lock is Lock
        assert type(multiprocessing) is type(multiprocessing.queues) is type(fastmp)
        from concurrent.futures import ProcessPoolExecutor
        assert ProcessPoolExecutor.__module__ == "concurrent.futures.process"
        import multiprocessing.spawn, multiprocessing.managers
        assert "fastmp" not in multiprocessing.spawn.get_preparation_data("x")
        fastmp.install()
        assert multiprocessing.Queue == fastmp.Queue
        assert "fastmp" in multiprocessing.spawn.get_preparation_data("x")
        fastmp.uninstall()
        assert multiprocessing.spawn.get_preparation_data.__module__ == "multiprocessing.spawn"
        assert multiprocessing.managers.get_context == multiprocessing.context._default_context.get_context
        """,
    )


def test_who_has_wrapped_a_replaced_function_keeps_the_wrapper(tmp_path):
    run(
        tmp_path,
        """
        import fastmp, functools, multiprocessing.spawn
        fastmp.install()
        original = multiprocessing.spawn.get_preparation_data

        @functools.wraps(original)  # which makes it look very much like the original
        def tracing(name):
            return original(name) | {"traced": True}

        multiprocessing.spawn.get_preparation_data = tracing
        for installed in (False, True) * 2:
            (fastmp.install if installed else fastmp.uninstall)()
            data = multiprocessing.spawn.get_preparation_data("name")
            assert "traced" in data and ("fastmp" in data) == installed
        fastmp.uninstall()
        assert multiprocessing.spawn.get_preparation_data is tracing
        """,
    )


IMPORTED_ELSEWHERE = "multiprocessing.managers", "multiprocessing.pool", "concurrent.futures.process"


@pytest.mark.parametrize("name", IMPORTED_ELSEWHERE)
def test_a_module_that_another_thread_is_importing(tmp_path, name):
    """It is half empty at the time: what it will have is found when it is whole."""
    run(
        tmp_path,
        """
        import builtins, concurrent.futures, multiprocessing, sys, threading
        import fastmp
        name = sys.argv[1]
        builtins.half, builtins.go_on = half, go_on = threading.Event(), threading.Event()
        assert not {name, "queue"} & set(sys.modules)
        thread = threading.Thread(target=__import__, args=(name,))
        thread.start()
        assert half.wait(20) and name in sys.modules
        fastmp.install()
        fastmp.uninstall()
        fastmp.install()
        go_on.set()
        thread.join()
        module = sys.modules[name]
        found = [getattr(module, each) for each in ("Pool", "ProcessPoolExecutor") if hasattr(module, each)]
        assert all(each.__module__.startswith("fastmp.") for each in found), found
        if name.endswith("managers"):
            assert type(module.BaseManager()._ctx).__module__ == "fastmp.context"
        """,
        name,
        queue=f"half.set()\nassert go_on.wait(20)\nexec(open({queue.__file__!r}).read())",  # all of them import it
    )


@pytest.mark.parametrize("pickler", ["cloudpickle", "dill"])
def test_functions_that_refer_to_the_modules_are_pickled_by_value(tmp_path, pickler):
    module = pytest.importorskip(pickler)
    try:
        module.loads(module.dumps(lambda: 1))
    except Exception as e:
        pytest.skip(f"{pickler} {module.__version__} pickles no function on this Python: {e}")
    run(
        tmp_path,
        """
        import fastmp
        fastmp.install()
        import concurrent.futures, multiprocessing, multiprocessing.queues, sys

        pickler = __import__(sys.argv[1])
        for module in multiprocessing, multiprocessing.queues, concurrent, concurrent.futures:
            assert pickler.loads(pickler.dumps(module)) is module

        def whose(kind):
            return type(getattr(multiprocessing, kind)()).__module__, concurrent.futures.Executor.__name__

        if __name__ == "__main__":
            pickled = pickler.dumps(whose)
            assert pickler.loads(pickled)("Queue") == ("fastmp.queues", "Executor")
            # And where nothing is installed.
            fastmp.uninstall()
            assert pickler.loads(pickled)("Queue") == ("multiprocessing.queues", "Executor")
        """,
        pickler,
    )


def test_what_stands_in_for_a_module(tmp_path):
    run(
        tmp_path,
        """
        import fastmp, sys
        from unittest import mock
        for name in "multiprocessing.managers", "multiprocessing.pool", "multiprocessing.queues":
            for stand_in in None, mock.Mock():
                with mock.patch.dict(sys.modules, {name: stand_in}):
                    fastmp.install()
                    fastmp.uninstall()
        """,
    )


WHOSE = """
    import multiprocessing, multiprocessing.queues
    from multiprocessing import Queue

    def whose():
        return {type(Queue()).__module__, multiprocessing.queues.Queue.__module__}
"""


@pytest.mark.parametrize(
    ("options", "ours"),
    [
        ("", "program package.one package.two packaged"),
        ("only=['package']", "package.one package.two"),
        ("only=['__main__', 'packaged']", "program packaged"),
        ("except_=['package']", "program packaged"),
        ("except_=['package.one', '__main__']", "package.two packaged"),
        ("only=['package'], except_=['package.two']", "package.one"),
    ],
)
def test_only_and_except(tmp_path, options, ours):
    (tmp_path / "package").mkdir()
    for name in "package/__init__", "package/one", "package/two", "packaged":
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(WHOSE))
    seen = run(
        tmp_path,
        f"""
        import fastmp
        fastmp.install({options})
        import package.one, package.two, packaged
        {textwrap.indent(textwrap.dedent(WHOSE), " " * 8).strip()}
        found = dict(program=whose())
        found |= {{module.__name__: module.whose() for module in (package.one, package.two, packaged)}}
        assert all(len(modules) == 1 for modules in found.values()), found
        print(*[name for name, modules in found.items() if modules == {{"fastmp.queues"}}])
        """,
    )
    assert seen.strip() == ours


def test_what_names_no_modules_is_refused():
    for wrong in "package", 3, [3], [b"package"]:
        with pytest.raises(TypeError):
            fastmp.install(only=wrong)
        with pytest.raises(TypeError):
            fastmp.install(except_=wrong)
    assert not fastmp.unchanged.is_installed()


CHILDREN = """
    import multiprocessing, other, sys

    if __name__ == "__main__":  # or a child would install it by itself, when it imports this
        import fastmp
        fastmp.install(**{options})
    from concurrent.futures import ProcessPoolExecutor

    def whose(queue=None):
        if queue is not None:
            queue.put(whose())
        return type(multiprocessing.Lock()).__module__, type(other.lock()).__module__

    def grandchild():
        queue = multiprocessing.SimpleQueue()
        child = multiprocessing.get_context(sys.argv[1]).Process(target=whose, args=(queue,))
        child.start()
        seen = queue.get()
        child.join()
        return seen

    def task(_):
        return whose()

    if __name__ == "__main__":
        ctx = multiprocessing.get_context(sys.argv[1])
        queue = ctx.Queue()
        child = ctx.Process(target=whose, args=(queue,))
        child.start()
        print(*queue.get())
        child.join()
        # The stdlib's own contexts start children that have it too.
        theirs = multiprocessing.__dict__["get_context"](sys.argv[1])
        queue = theirs.Queue()
        child = theirs.Process(target=whose, args=(queue,))
        child.start()
        print(*queue.get())
        child.join()
        with ctx.Pool(1) as pool:
            print(*pool.apply(whose))
        with ProcessPoolExecutor(1, mp_context=ctx) as executor:
            print(*executor.submit(whose).result())
        executor = ProcessPoolExecutor(1, mp_context=ctx)
        print(*executor.submit(grandchild).result())
        executor.shutdown()
"""
OTHER = """
    import multiprocessing

    def lock():
        return multiprocessing.Lock()
"""


@pytest.mark.parametrize("method", METHODS)
def test_children_and_theirs(tmp_path, method):
    seen = run(tmp_path, CHILDREN.replace("{options}", "{}"), method, other=OTHER)
    assert seen.splitlines() == ["fastmp.synchronize fastmp.synchronize"] * 5


@pytest.mark.parametrize("method", METHODS)
def test_children_know_whom_it_is_for(tmp_path, method):
    seen = run(tmp_path, CHILDREN.replace("{options}", "dict(except_=['other'])"), method, other=OTHER)
    assert seen.splitlines() == ["fastmp.synchronize multiprocessing.synchronize"] * 5


@pytest.mark.parametrize("whose", ["ours", "the stdlib's"])
def test_what_a_fork_server_preloads(tmp_path, whose):
    """It binds its names in the server, which children are forked from."""
    seen = run(
        tmp_path,
        """
        import multiprocessing

        def child(queue):
            import preloaded
            queue.put((preloaded.Lock().__class__.__module__, preloaded.server))

        if __name__ == "__main__":
            import fastmp, os, sys
            fastmp.install(except_=[] if sys.argv[1] == "ours" else ["__main__"])
            ctx = multiprocessing.get_context("forkserver")
            ctx.set_forkserver_preload(["preloaded"])
            queue = ctx.SimpleQueue()
            process = ctx.Process(target=child, args=(queue,))
            process.start()
            module, server = queue.get()
            print(module, server != process.pid)
            process.join()
        """,
        whose,
        preloaded="import os\nfrom multiprocessing import Lock\nserver = os.getpid()\n",
    )
    assert seen.strip() == "fastmp.synchronize True"


@pytest.mark.fastmp_only("the fork server is the stdlib's")
def test_a_fork_server_does_once_what_all_children_would(tmp_path):
    """But only where they are told the same as the server was."""
    run(
        tmp_path,
        """
        import fastmp, os, pickle
        from fastmp import forkserver_main, unchanged
        from multiprocessing import context, spawn

        def learns(installed):
            data = os.memfd_create("data")
            context.set_spawning_popen(data)  # or the key would not be pickled
            os.write(data, pickle.dumps(spawn.get_preparation_data("name")))
            prepared = forkserver_main._Prepared(installed)
            prepared.learn(data)
            os.close(data)
            return bool(prepared._data)

        assert learns("")
        fastmp.install(except_=["one"])
        before = unchanged.travelling()
        assert before and learns(before) and not learns("")
        fastmp.install()
        assert not learns(before)
        """,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_finds_no_fastmp_on_its_path(tmp_path, method):
    """By the directory that the parent has it from: `sys.path` comes only later."""
    run(
        tmp_path,
        """
        import os, sys
        if __name__ == "__main__":
            import fastmp
            fastmp.install(except_=["__main__"])  # so the stdlib starts it
        import multiprocessing

        def child(conn):
            import asked
            conn.send(asked.lock().__class__.__module__)

        if __name__ == "__main__":
            os.environ["PYTHONPATH"], os.environ["PYTHONNOUSERSITE"] = "", "1"
            multiprocessing.set_executable(sys.argv[2])
            ctx = multiprocessing.get_context(sys.argv[1])
            assert type(ctx).__module__ == "multiprocessing.context"
            here, there = ctx.Pipe()
            process = ctx.Process(target=child, args=(there,))
            process.start()
            there.close()
            print(here.recv())
            process.join()
        """,
        method,
        getattr(sys, "_base_executable", sys.executable),
        asked="import multiprocessing\nlock = lambda: multiprocessing.Lock()\n",
    )


def test_managers(tmp_path):
    seen = run(
        tmp_path,
        """
        import fastmp
        fastmp.install()
        import multiprocessing
        from multiprocessing.managers import BaseManager, SyncManager

        class Own(BaseManager):
            pass

        if __name__ == "__main__":
            for manager in multiprocessing.Manager(), SyncManager(), Own():
                print(type(manager._ctx).__module__)
                if manager._state.value == 0:
                    manager.start()
                manager.shutdown()
            with multiprocessing.Manager() as manager:
                assert manager.list([1, 2])[1] == 2
        """,
    )
    assert seen.splitlines() == ["fastmp.context"] * 3


def test_executors(tmp_path):
    run(
        tmp_path,
        """
        import fastmp
        fastmp.install()
        import concurrent.futures, sys
        from concurrent.futures import ThreadPoolExecutor
        # A fork server may have it, of whose children this is the module, too.
        assert __name__ != "__main__" or "concurrent.futures.process" not in sys.modules
        from concurrent.futures import ProcessPoolExecutor
        import concurrent.futures.process
        assert concurrent.futures.process.ProcessPoolExecutor is ProcessPoolExecutor
        assert concurrent.futures.ProcessPoolExecutor is ProcessPoolExecutor
        assert ProcessPoolExecutor.__module__.startswith("fastmp"), ProcessPoolExecutor
        assert issubclass(ProcessPoolExecutor, concurrent.futures.Executor)

        class Own(concurrent.futures.ProcessPoolExecutor):
            pass

        if __name__ == "__main__":
            for make in ProcessPoolExecutor, Own:
                with make(2) as executor:
                    assert list(executor.map(abs, [-1, -2])) == [1, 2]
                    assert all(type(p).__module__ == "fastmp.process" for p in executor._processes.values())
            with ProcessPoolExecutor(1, max_tasks_per_child=1) as executor:
                assert executor.submit(abs, -3).result() == 3
        """,
    )


def test_a_mock_is_found_and_gone(tmp_path):
    run(
        tmp_path,
        """
        import fastmp
        fastmp.install()
        import multiprocessing, concurrent.futures
        from unittest import mock

        for target, ours in (
            ("multiprocessing.Queue", fastmp.Queue),
            ("multiprocessing.queues.Queue", fastmp.queues.Queue),
            ("concurrent.futures.ProcessPoolExecutor", concurrent.futures.ProcessPoolExecutor),
        ):
            module, _, name = target.rpartition(".")
            module = __import__(module, fromlist=["x"])
            with mock.patch(target) as mocked:
                assert getattr(module, name) is mocked
            assert getattr(module, name) == ours
        multiprocessing.Own = 3
        assert multiprocessing.Own == 3
        """,
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_stdlibs_objects_still_travel(tmp_path, method):
    """Made before, pickled after: by names that mean something else to those who ask."""
    run(
        tmp_path,
        """
        import multiprocessing, sys
        from multiprocessing import get_context

        def child(lock, event, value, queue, conn):
            with lock:
                value.value += 1
            queue.put(type(lock).__module__)
            conn.send(type(value).__module__)
            event.set()

        if __name__ == "__main__":
            import fastmp
            theirs = get_context(sys.argv[1])
            here, there = theirs.Pipe()
            objects = theirs.Lock(), theirs.Event(), theirs.Value("i"), theirs.Queue(), there
            fastmp.install()
            for ctx in theirs, multiprocessing.get_context(sys.argv[1]):
                process = ctx.Process(target=child, args=objects)
                process.start()
                assert objects[1].wait(20)
                process.join()
                assert objects[3].get() == "multiprocessing.synchronize"
                assert here.recv() == "multiprocessing.sharedctypes"
            assert objects[2].value == 2
        """,
        method,
    )


def test_a_context_that_others_have_added(tmp_path):
    run(
        tmp_path,
        """
        import fastmp
        fastmp.install()
        import multiprocessing

        class Own(multiprocessing.context.BaseContext):
            _name = "own"

        multiprocessing.context._concrete_contexts["own"] = Own()
        assert type(multiprocessing.get_context("own")) is Own
        try:
            multiprocessing.get_context("none")
        except ValueError:
            pass
        else:
            raise AssertionError
        """,
    )


def test_it_costs_little(tmp_path):
    """Nothing is imported for it: not by `install`, and not when other names are looked up."""
    seen = run(
        tmp_path,
        """
        import sys, fastmp, multiprocessing
        before = set(sys.modules)
        fastmp.install()
        multiprocessing.current_process()
        multiprocessing.Queue
        print(*sorted(set(sys.modules) - before))
        """,
    )
    assert seen.split() == ["concurrent", "fastmp.unchanged"]


def test_threads_that_look_things_up_meanwhile(tmp_path):
    run(
        tmp_path,
        """
        import fastmp, threading, multiprocessing, multiprocessing.queues

        stop = False
        seen = set()
        failed = []

        def look():
            try:
                while not stop:
                    seen.add(multiprocessing.queues.Queue.__module__)
                    assert multiprocessing.current_process().name
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            fastmp.install()
            fastmp.uninstall()
        stop = True
        for thread in threads:
            thread.join()
        assert not failed, failed
        assert seen <= {"fastmp.queues", "multiprocessing.queues"}
        """,
    )


def test_who_has_built_on_private_parts(tmp_path):
    """Known packages get what they have built on; a pool of joblib's runs on our contexts all the same."""
    for package in "loky", "joblib":
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "loky" / "queues.py").write_text(
        "import multiprocessing.queues\nQueue = multiprocessing.queues.Queue\n"
    )
    (tmp_path / "joblib" / "pool.py").write_text(
        "import multiprocessing\nfrom multiprocessing.pool import Pool\nLock = multiprocessing.Lock\n"
        "class Own(Pool):\n"
        "    def _setup_queues(self):\n"
        "        super()._setup_queues()\n"
        "        self.put = self._inqueue.put\n"
    )
    (tmp_path / "torch" / "multiprocessing").mkdir(parents=True)
    (tmp_path / "torch" / "multiprocessing" / "queue.py").write_text(
        "import multiprocessing.queues\n"
        "class Queue(multiprocessing.queues.Queue):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "        self._reader = self._reader\n"
    )
    run(
        tmp_path,
        """
        import fastmp
        fastmp.install()
        import loky.queues, joblib.pool
        assert loky.queues.Queue.__module__ == "multiprocessing.queues"
        assert joblib.pool.Pool.__module__ == "multiprocessing.pool"
        assert joblib.pool.Lock == fastmp.Lock
        import torch.multiprocessing.queue, multiprocessing
        queue = torch.multiprocessing.queue.Queue(ctx=multiprocessing.get_context())
        queue.put(1)
        assert queue.get() == 1
        if __name__ == "__main__":
            with joblib.pool.Own(1) as pool:
                assert pool.apply(abs, (-1,)) == 1
                assert pool.put
                assert type(pool._ctx).__module__ == "fastmp.context"
                assert type(pool._inqueue).__module__ == "fastmp.queues"
        """,
    )
