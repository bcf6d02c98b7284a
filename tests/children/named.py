"""Subclasses of shared objects with state of their own, of each package, for children to import."""

import importlib


def of(module):
    """The classes for one package. Each is a module's attribute too, as pickling it needs."""
    return CLASSES[module]


def _make(module):
    queues = importlib.import_module(f"{module}.queues")
    synchronize = importlib.import_module(f"{module}.synchronize")

    class Event(synchronize.Event):
        def __init__(self, name, *, context):
            super().__init__(ctx=context)
            self.name = name

        def wait(self, timeout=None):
            return super().wait(timeout=timeout)

    class StatefulEvent(synchronize.Event):
        def __init__(self, name, *, context):
            super().__init__(ctx=context)
            self.name, self.here = name, object()

        def __getstate__(self):
            state = self.__dict__.copy()
            del state["here"]
            return state

        def __setstate__(self, state):
            self.__dict__.update(state)
            self.here = "there"

    class Lock(synchronize.Lock):
        def __init__(self, name, *, context):
            super().__init__(ctx=context)
            self.name, self.entered = name, 0

        def __enter__(self):
            self.entered += 1
            return super().__enter__()

    class RLock(synchronize.RLock):
        def __init__(self, name, *, context):
            super().__init__(ctx=context)
            self.name = name

        def __getstate__(self):
            return (*super().__getstate__(), self.name)

        def __setstate__(self, state):
            super().__setstate__(state[:-1])
            self.name = state[-1]

    class Semaphore(synchronize.Semaphore):
        def __init__(self, name, value=2, *, context):
            super().__init__(value=value, ctx=context)
            self.name = name

    class BoundedSemaphore(synchronize.BoundedSemaphore):
        def __init__(self, context, name):
            super().__init__(2, ctx=context)
            self.name = name

    class Condition(synchronize.Condition):
        def __init__(self, name, *, context):
            super().__init__(ctx=context)
            self.name = name

        def __getstate__(self):
            return (*super().__getstate__(), self.name)

        def __setstate__(self, state):
            super().__setstate__(state[:-1])
            self.name = state[-1]

    class Barrier(synchronize.Barrier):
        def __init__(self, parties, name, *, context):
            super().__init__(parties, ctx=context)
            self.name = name

    class Queue(queues.Queue):
        def __init__(self, context, name, maxsize=0):
            super().__init__(maxsize, ctx=context)
            self.name, self.count = name, context.Value("i")

        def __getstate__(self):
            return {"queue": super().__getstate__(), "name": self.name, "count": self.count}

        def __setstate__(self, state):
            super().__setstate__(state["queue"])
            self.name, self.count = state["name"], state["count"]

        def put(self, *args, **kwargs):
            super().put(*args, **kwargs)
            with self.count.get_lock():
                self.count.value += 1

    class IterableQueue(queues.Queue):
        def __init__(self, sources, *, context):
            super().__init__(ctx=context)
            self.sources = context.Value("i", sources)
            self.errors = context.Queue()

        def __getstate__(self):
            return (*super().__getstate__(), self.sources, self.errors)

        def __setstate__(self, state):
            super().__setstate__(state[:-2])
            self.sources, self.errors = state[-2:]

        def finish(self):
            with self.sources.get_lock():
                self.sources.value -= 1
                if self.sources.value == 0:
                    self.put(None)

        def __iter__(self):
            return iter(self.get, None)

    class PlainQueue(queues.Queue):
        """With a `__new__` of its own, and without what would carry its attributes."""

        def __new__(cls, *args, **kwargs):
            return super().__new__(cls)

        def __init__(self, *, context, **kwargs):
            super().__init__(ctx=context, **kwargs)
            self.name = "only here"

    made = {name: value for name, value in locals().items() if isinstance(value, type)}
    for name, cls in made.items():
        cls.__qualname__ = f"{module}_{name}"
        cls.__module__ = __name__
        globals()[cls.__qualname__] = cls
    return made


CLASSES = {module: _make(module) for module in ("multiprocessing", "fastmp")}


def feed(queue, count):
    for i in range(count):
        queue.put(i)
    queue.finish()


def answer(queue, conn):
    conn.send((queue.get(), queue.name))
    queue.put("answer")


def describe(conn, *shared):
    conn.send([getattr(one, "name", None) for one in shared])


def set_it(event, conn):
    conn.send((event.name, getattr(event, "here", None)))
    event.set()


def pass_through(barrier, lock, semaphore):
    lock.acquire()
    semaphore.acquire()
    lock.release()
    barrier.wait()
