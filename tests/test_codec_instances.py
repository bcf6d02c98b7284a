"""What is written without pickle comes out as with it, and what looks alike goes by pickle."""

import copyreg
import datetime
import decimal
import multiprocessing.reduction
import pickle
import signal
import sys
import uuid

import fastmp
import pytest
from children import instances, objects

UTC = datetime.UTC
DAY = datetime.datetime(2026, 11, 29, 12, 30, 1, 5)


def circle():
    one, two = instances.Plain(), instances.Plain()
    one.a, two.a = two, [one, {"two": two}]
    return one


def with_own_dict():
    one = instances.Plain("x", [1])
    return [vars(one), one, vars(one), one]


def dict_afterwards():
    one = instances.Plain("x", [1])
    return [one, vars(one)]


def sees_what_is_not_complete(container, add):
    """Its `__setstate__` is called with a container that it is itself in."""
    one = instances.SetsState(container, "b")
    for item in (1, one, 2):
        add(container, item)
    return container


def many(container, add):
    one = instances.SetsState(container, 0)
    for item in range(2500):
        add(container, item)
    add(container, one)
    for item in range(2500, 3000):
        add(container, item)
    return [container, container]


def hidden(name):
    one = instances.Plain()
    vars(one)[name] = "of the instance"
    return one


def with_property():
    one = instances.HidesDict()
    vars(one)["shown"] = 5
    return one


def odd_key():
    one = instances.Plain()
    vars(one)[5] = "five"
    return one


def as_key():
    key = instances.Key(1)
    return {key: 1, instances.Key(2): key}, {key, instances.Key(3)}, frozenset([key]), [key]


def circular_tuple():
    one = instances.Point([], 1)
    one.x.append(one)
    return one


def same_keys():
    """A dict that an instance's is like, the other way round, and a value that is a key as well."""
    text = "".join(["b", ""])
    return [
        {"a": 1, "b": 2},
        instances.Plain(3, 4),
        {"a": 5, "b": instances.Plain(6, "a")},
        instances.Sub("b", text),
        {"a": {"a": instances.Plain(), "b": "a"}, "b": text},
    ]


GRAPHS = {
    "plain": lambda: instances.Plain(),
    "plain ones": lambda: [instances.Plain(i, str(i)) for i in range(300)],
    "bare": lambda: [instances.Bare(), instances.Bare()],
    "the same": lambda: [one := instances.Plain([1]), one, (one, one.a)],
    "sub": lambda: instances.Sub(instances.Plain(), instances.Sub()),
    "abstract": lambda: instances.Concrete([instances.Concrete(1)]),
    "typed": lambda: instances.Typed(1),
    "sets state": lambda: [instances.SetsState(), instances.SetsState()],
    "gets state": lambda: instances.GetsState(),
    "reduces": lambda: [instances.Reduces(), instances.ReducesEx()],
    "new": lambda: instances.New(),
    "new args": lambda: [instances.NewArgs(), instances.NewArgsEx()],
    "slots": lambda: instances.Slots(),
    "other classes": lambda: [instances.Outer(), instances.Outer.Inner(), instances.OfMeta()],
    "answers": lambda: instances.Answers(),
    "list": lambda: instances.List([1, instances.Plain()]),
    "circle": circle,
    "circular tuple": circular_tuple,
    "own dict": with_own_dict,
    "dict afterwards": dict_afterwards,
    "incomplete list": lambda: sees_what_is_not_complete([], list.append),
    "incomplete dict": lambda: sees_what_is_not_complete({}, lambda d, i: d.update({repr(type(i)) + repr(len(d)): i})),
    "long list": lambda: many([], list.append),
    "long dict": lambda: many({}, lambda d, i: d.update({len(d): i})),
    "private": lambda: hidden("__other__"),
    "property": with_property,
    "keys": as_key,
    "same keys": same_keys,
    "odd key": odd_key,
    "points": lambda: [instances.Point(1, "x"), instances.TypedPoint(1), instances.Point([], ())],
    "same points": lambda: [one := instances.Point(1, [2]), one, one.y],
    "odd points": lambda: [instances.SubPoint(1, 2), instances.Odd(1, 2), instances.Reducing(1, 2)],
    "decimals": lambda: [decimal.Decimal(1) / 7, decimal.Decimal("NaN"), one := decimal.Decimal("-0"), one],
    "times": lambda: [DAY, DAY.replace(tzinfo=UTC, fold=1), DAY.date(), DAY.time(), DAY - DAY.replace(day=1), UTC, UTC],
    "zones": lambda: [datetime.timezone(datetime.timedelta(hours=1), "name"), DAY.time().replace(tzinfo=UTC)],
    "uuid": lambda: uuid.UUID(int=5),
    "classes": lambda: [instances.Plain, instances.Point, instances.Plain(instances.Plain)],
    "deep": lambda: [[[[[instances.Plain([[[instances.Plain([[[1]]])]]])]]]]],
    "surrogate": lambda: instances.Plain("\ud800"),
    "error": lambda: instances.Plain(ValueError("x")),
}


@pytest.fixture
def through():
    queue = fastmp.Queue()
    return lambda item: (queue.put(item), queue.get())[1]


@pytest.mark.parametrize("name", GRAPHS)
def test_as_pickle(through, name):
    for _ in range(3):  # pickle notes down what it finds out about a class
        item = GRAPHS[name]()
        expected = pickle.loads(pickle.dumps(item, 5))
        assert objects.fingerprint(through(item)) == objects.fingerprint(expected)


def lookups(through, name):
    """How many classes pickle looks up for one object and for another like it, in a process of its
    own: what listens cannot be taken out again.
    """

    def count(writer):
        found = []
        sys.addaudithook(lambda event, args: found.append(args) if event == "pickle.find_class" else None)
        for _ in range(2):
            found.clear()
            through(GRAPHS[name]())
            writer.send(len(found))

    fork = multiprocessing.get_context("fork")
    reader, writer = fork.Pipe(False)
    child = fork.Process(target=count, args=(writer,))
    child.start()
    counts = [reader.recv(), reader.recv()]
    child.join()
    return counts


@pytest.mark.parametrize("name", ["plain", "plain ones", "typed", "abstract", "points", "decimals", "times", "circle"])
def test_without_pickle(through, name):
    assert lookups(through, name)[1] == 0


@pytest.mark.parametrize("name", ["gets state", "reduces", "new args", "slots", "odd points", "uuid", "odd key"])
def test_by_pickle(through, name):
    assert all(lookups(through, name))


def outcome(make):
    try:
        return objects.fingerprint(make())
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("of", ["of the instance", None, {}])
@pytest.mark.parametrize(
    "hide", ["__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__", "__getnewargs_ex__", "__dict__"]
)
def test_attributes_that_hide_methods(through, hide, of):
    one = instances.Plain()
    vars(one)[hide] = of
    through(instances.Plain())
    assert outcome(lambda: through(one)) == outcome(lambda: pickle.loads(pickle.dumps(one, 5)))


def test_poser(through):
    one = instances.Poses()
    for _ in range(2):
        with pytest.raises(pickle.PicklingError):
            pickle.dumps(one, 5)
        with pytest.raises(pickle.PicklingError):
            through(one)


@pytest.mark.parametrize("table", [copyreg.dispatch_table, multiprocessing.reduction.ForkingPickler._extra_reducers])
@pytest.mark.parametrize("item", [instances.Plain(), instances.Point(1, 2), decimal.Decimal(1)])
def test_registered_later(through, table, item):
    through(item)
    through(item)
    table[type(item)] = lambda one: (list, ((1, 2),))
    try:
        assert through(item) == [1, 2]
        assert through([item, item]) == [[1, 2], [1, 2]]
    finally:
        del table[type(item)]
    assert type(through(item)) is type(item)


@pytest.mark.parametrize("method", ["__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__"])
def test_method_added_later(through, monkeypatch, method):
    answers = {
        "__reduce__": lambda self: (list, ((1, 2),)),
        "__reduce_ex__": lambda self, protocol: (list, ((1, 2),)),
        "__getstate__": lambda self: {"a": "added"},
        "__getnewargs__": lambda self: (),
    }
    item = instances.Sub()
    through(item)
    through(item)
    monkeypatch.setattr(instances.Plain, method, answers[method], raising=False)
    assert objects.fingerprint(through(item)) == objects.fingerprint(pickle.loads(pickle.dumps(item, 5)))


def test_setstate_added_after_it_was_sent(monkeypatch):
    queue = fastmp.Queue()
    for _ in range(2):
        queue.put(instances.Plain(1, 2))
    assert vars(queue.get()) == {"a": 1, "b": 2}
    monkeypatch.setattr(
        instances.Plain, "__setstate__", lambda self, state: vars(self).update(given=state), raising=False
    )
    assert vars(queue.get()) == {"given": {"a": 1, "b": 2}}


def test_class_of_the_same_name(monkeypatch, through):
    """Another one has taken its name: pickle refuses, and so is this."""
    item = instances.Plain()
    through(item)
    through(item)
    queue = fastmp.Queue()
    queue.put(item)
    monkeypatch.setattr(instances, "Plain", instances.Bare)
    assert type(queue.get()) is instances.Bare
    with pytest.raises(pickle.PicklingError):
        through(item)


def test_class_that_is_nowhere(through):
    class Local:
        pass

    for _ in range(2):
        with pytest.raises((AttributeError, pickle.PicklingError)):
            through([Local()])
    assert through(instances.Plain(1)).a == 1


def test_key_that_raises(monkeypatch, through):
    item = {instances.Key(1): 2}
    through(item)
    queue = fastmp.Queue()
    queue.put(item)
    monkeypatch.setattr(instances.Key, "__hash__", lambda self: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        queue.get()


def test_what_a_handler_raises_loses_no_instance(monkeypatch):
    class TimeOut(Exception):
        pass

    def handler(signum, frame):
        raise TimeOut

    calls = []

    def setstate(self, state):
        calls.append(1)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGUSR1)
        vars(self).update(state)

    queue = fastmp.Queue()
    for _ in range(2):
        queue.put(instances.Plain(1, 2))
    queue.get()
    monkeypatch.setattr(instances.Plain, "__setstate__", setstate, raising=False)
    old = signal.signal(signal.SIGUSR1, handler)
    got = []
    try:
        with pytest.raises(TimeOut):
            got.append(queue.get())
            for _ in range(1000):
                pass
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert [vars(one) for one in got] == [{"a": 1, "b": 2}]


def test_constructors_that_send():
    """What runs while a message is decoded may itself get."""
    queue, inner = fastmp.Queue(), fastmp.Queue()
    inner.put([instances.Plain("inner")] * 2)

    class Getting(instances.SetsState):
        def __setstate__(self, state):
            super().__setstate__(state)
            self.got = inner.get()

    Getting.__module__, Getting.__qualname__ = instances.__name__, "Getting"
    instances.Getting = Getting
    try:
        queue.put([1, Getting(5), instances.Plain(6)])
        one, getting, plain = queue.get()
    finally:
        del instances.Getting
    assert (one, getting.state["a"], getting.got[0].a, plain.a) == (1, 5, "inner", 6)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_another_process(method):
    context = fastmp.get_context(method)
    queue, back = context.Queue(), context.Queue()
    process = context.Process(target=echo, args=(queue, back))
    process.start()
    item = [GRAPHS["same keys"](), GRAPHS["points"](), GRAPHS["times"]()]
    for _ in range(3):
        queue.put(item)
        assert objects.fingerprint(back.get(timeout=60)) == objects.fingerprint(item)
    queue.put(None)
    process.join(60)
    assert process.exitcode == 0


def echo(queue, back):
    while (item := queue.get()) is not None:
        back.put(item)
