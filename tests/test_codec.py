"""Whatever nesting of builtins goes in, what comes out is what pickle gives: values, types,
aliases, order.

FASTMP_TEST_EXAMPLES of each kind.
"""

import contextlib
import gc
import os
import pickle
import random
import subprocess
import sys

import fastmp
import pytest
from children import objects
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

EXAMPLES = settings(
    max_examples=int(os.environ.get("FASTMP_TEST_EXAMPLES", "250")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    database=None,
)
INTEGERS = st.integers() | st.sampled_from(
    [sign * 2**power + off for power in (7, 8, 15, 16, 31, 32, 63, 64, 65) for sign in (1, -1) for off in (-1, 0, 1)]
)
TEXTS = st.text(st.characters(exclude_categories=[])) | st.text("ab\0\x7f\x80\xff\u0100\uffff\U00010000\ud800")
SCALARS = (
    st.none()
    | st.booleans()
    | INTEGERS
    | st.floats(allow_nan=True)
    | st.complex_numbers()
    | TEXTS
    | st.binary(max_size=300)
)
KEYS = SCALARS | st.tuples(SCALARS, SCALARS) | st.frozensets(SCALARS, max_size=3)
SUBCLASSES = (
    st.builds(objects.Number, st.integers())
    | st.builds(objects.Text, TEXTS)
    | st.builds(objects.Ratio, st.floats())
    | st.builds(objects.Items, st.lists(SCALARS, max_size=3))
    | st.builds(objects.Record, TEXTS, st.lists(SCALARS, max_size=3))
    | st.sampled_from(list(objects.Colour))
)
VALUES = st.recursive(
    SCALARS | SUBCLASSES | st.builds(bytearray, st.binary(max_size=20)),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=6).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=6)
        | st.sets(KEYS, max_size=4)
        | inner.map(lambda item: [item, item])
        | inner.map(lambda item: {"a": item, "b": (item, [item])})
    ),
    max_leaves=30,
)


@pytest.fixture(scope="module", params=["queue", "pipe"])
def through(request):
    if request.param == "queue":
        queue = fastmp.Queue()
        yield lambda item: (queue.put(item), queue.get())[1]
    else:
        left, right = fastmp.Pipe()
        yield lambda item: (left.send(item), right.recv())[1]


def by_pickle(item):
    return pickle.loads(pickle.dumps(item))


@EXAMPLES
@given(VALUES)
def test_same_as_pickle(through, item):
    assert objects.fingerprint(through(item)) == objects.fingerprint(by_pickle(item))


@EXAMPLES
@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(TEXTS, inner)))
def test_plain_values_come_back_equal(through, item):
    assert objects.fingerprint(through(item)) == objects.fingerprint(by_pickle(item))
    assert objects.fingerprint(through(item)) == objects.fingerprint(through(item))


@EXAMPLES
@given(st.data())
def test_graphs(through, data):
    """Containers that refer to each other at random, in circles as well."""
    nodes = [data.draw(st.sampled_from([list, dict, objects.Items, objects.Table]))() for _ in range(5)]
    for source, target in data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12)):
        if isinstance(nodes[source], list):
            nodes[source].append(nodes[target])
        else:
            nodes[source][len(nodes[source])] = nodes[target]
    assert objects.fingerprint(through(nodes)) == objects.fingerprint(by_pickle(nodes))


@EXAMPLES
@given(st.lists(VALUES, max_size=8))
def test_a_row_of_messages(items):
    queue = fastmp.Queue()
    for item in items:
        queue.put(item)
    assert queue.qsize() == len(items)
    for item in items:
        assert objects.fingerprint(queue.get()) == objects.fingerprint(by_pickle(item))


@EXAMPLES
@given(VALUES)
def test_sending_changes_nothing(through, item):
    before = objects.fingerprint(item)
    through(item)
    assert objects.fingerprint(item) == before


def identities(item):
    """Which texts, bytes and containers are one object, in the order in which they are met."""
    seen, pattern = {}, []

    def look(one):
        if isinstance(one, (str, bytes, bytearray, tuple, list, dict, set, frozenset)):
            known = id(one) in seen
            pattern.append(seen.setdefault(id(one), len(seen)))
            if isinstance(one, dict):
                one = [part for pair in one.items() for part in pair]
            if not known and not isinstance(one, (str, bytes, bytearray)):
                for part in one:
                    look(part)

    look(item)
    return pattern


def fresh_pool():
    """Objects that no literal, cache or other test refers to.

    Each may be in a message many times.
    """
    text = "".join(["te", "xt"])
    return [
        text,
        text + "\xe9",
        text * 20,
        "".join(["k", "ey"]),
        bytes([1, 2, 3]),
        bytes(300),
        bytearray(b"abc"),
        (),
        (text, 1),
        (bytes(4), (text, ())),
        frozenset([text]),
        {text},
        [text],
        {text: [1], "b": text},
    ]


def is_hashable(item):
    try:
        hash(item)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("seed", range(300))
def test_identity_is_kept_as_pickle_keeps_it(through, seed):
    chance, pool = random.Random(seed), fresh_pool()
    keys = [one for one in pool if is_hashable(one)]

    def draw(depth):
        kind = chance.choice([None] if depth > 3 else [None, list, tuple, dict, set, frozenset])
        count = chance.randrange(6)
        if kind is None:
            return chance.choice([*pool, 5, 1000, None, 2.5])
        if kind is dict:
            return {chance.choice(keys): draw(depth + 1) for _ in range(count)}
        if kind in (set, frozenset):
            return kind(chance.choice(keys) for _ in range(count))
        items = [draw(depth + 1) for _ in range(count)]
        pool.append(items if kind is list else tuple(items))
        return pool[-1]

    item = [draw(0) for _ in range(4)]
    expected, got = by_pickle(item), through(item)
    assert objects.fingerprint(got) == objects.fingerprint(expected)
    assert identities(got) == identities(expected)


@EXAMPLES
@given(st.data())
def test_records(through, data):
    """Dicts that have the same keys, or nearly: other orders, sizes, values that are records,
    aliases.
    """
    names = ["".join(["field", str(i)]) for i in range(20)]
    field = st.integers() | TEXTS | st.sampled_from(names) | st.none()
    rows, size = [], data.draw(st.integers(0, 18))
    for _ in range(data.draw(st.integers(0, 12))):
        columns = names[:size]
        match data.draw(st.integers(0, 6)):
            case 0:
                columns = columns[::-1]
            case 1:
                columns = names[: data.draw(st.integers(0, 20))]
            case 2:
                columns = [*columns[:-1], 5, "another"]
        row = {name: data.draw(field) for name in columns}
        if row and data.draw(st.booleans()):
            row[columns[-1]] = data.draw(st.sampled_from([*rows, row, [row], dict.fromkeys(columns, 1)]))
        rows.append(row)
        if data.draw(st.integers(0, 4)) == 0:
            rows.append(row)
    expected, got = by_pickle(rows), through(rows)
    assert objects.fingerprint(got) == objects.fingerprint(expected)
    assert identities(got) == identities(expected)


def test_keys_that_dicts_share(through):
    """Attributes' dicts have one table of keys between them, which may hold the only reference to a
    key.
    """

    class Box:
        pass

    dicts = []
    for _ in range(3):
        box = Box()
        for number in range(4):
            setattr(box, "".join(["dynamic", str(number)]), number)
        dicts.append(vars(box))
    del box, Box
    expected, got = by_pickle(dicts), through(dicts)
    assert got == dicts
    assert identities(got) == identities(expected)


def test_what_was_refused_is_tried_again(through):
    """A value that the codec does not know, late in a large one.

    Then one of the same shape that it does.
    """
    rows = [{"id": i, "name": f"name{i}", "tags": (i,)} for i in range(200)]
    for _ in range(20):
        assert through([*rows, 1j]) == [*rows, 1j]
        assert through(rows) == rows
        assert through([*rows, {"odd": "\ud800"}]) == [*rows, {"odd": "\ud800"}]


@pytest.mark.parametrize("depth", [10, 48, 49, 50, 51, 52, 100])
@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {"a": x}, lambda x: frozenset([x])])
def test_depths(through, depth, wrap):
    item = ()
    for _ in range(depth):
        item = wrap(item)
    assert through(item) == item
    assert through([{"a": item}, item])[1] == item


def expect_survival(left, right, data):
    # Two of pickle's opcodes make room for as many entries as they are told to: no fault of ours.
    assume(not set(data) & set(b"pr"))
    left.send_bytes(data)
    left.send("after")
    with contextlib.suppress(Exception):
        right.recv()
    assert right.recv() == "after"


@EXAMPLES
@given(st.binary(max_size=200))
def test_garbage_is_an_error_and_never_more(data):
    """Any bytes may be received as an object: the decoder raises or returns, and the next message
    is fine.
    """
    left, right = fastmp.Pipe()
    with left, right:
        expect_survival(left, right, data)


@EXAMPLES
@given(VALUES, st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_another_value(item, where, byte):
    """What a codec of its own writes is no safer from the other side than a pickle is."""
    left, right = fastmp.Pipe()
    with left, right:
        left.send(item)
        data = bytearray(right.recv_bytes())
        data[where % len(data)] = byte
        expect_survival(left, right, data)


@pytest.mark.parametrize("inside", [lambda: ([], list.append), lambda: ({}, lambda held, item: held.update(me=item))])
@pytest.mark.parametrize("wrap", [lambda item: item, lambda item: [item, item], lambda item: (item,)])
def test_a_tuple_inside_itself_is_one(through, inside, wrap):
    held, add = inside()
    item = (held, 1)
    add(held, item)
    got, expected = through(wrap(item)), pickle.loads(pickle.dumps(wrap(item)))
    for value in (got, expected):
        while not isinstance(value, tuple) or len(value) == 1:
            value = value[0]
        back = value[0]["me"] if isinstance(value[0], dict) else value[0][0]
        assert back is value


@pytest.mark.parametrize("wrap", [list, tuple, lambda items: dict(enumerate(items)), dict.fromkeys, set])
def test_integers_round_those_that_exist_once(through, wrap):
    integers = [sign * 2**power + off for power in range(66) for sign in (1, -1) for off in range(-6, 7)]
    item = wrap([*range(-300, 600), *integers])
    got = through(item)
    assert got == item
    assert objects.fingerprint(got) == objects.fingerprint(by_pickle(item))


def test_numbers_are_whole_in_lists_of_anything(through):
    mixed = [1, 2.5, "text", None, -1, 300, [7, 8.5], 70000, True, 2**40, 1e300, (), {"a": 5}, 2**70, -129]
    for length in range(len(mixed)):
        assert objects.fingerprint(through(mixed[:length])) == objects.fingerprint(by_pickle(mixed[:length]))
    item = [number / 3 for number in range(50)] * 2
    assert [id(number) for number in through(item)] != [id(item[0])] * len(item)
    assert len({id(number) for number in through(item)}) == len({id(number) for number in by_pickle(item)})


def new_key(number=0):
    return "".join(["one", " text ", str(number)])


def test_keys_of_one_text_are_as_many_as_they_were(through):
    """Whatever has been received before."""
    for _ in range(3):
        rows = [{new_key(): 1}, {new_key(): 2, "x": [{new_key(): {new_key(): 3}}]}, new_key()]
        expected, got = by_pickle(rows), through(rows)
        assert objects.fingerprint(got) == objects.fingerprint(expected)
        assert identities(got) == identities(expected)


def test_more_keys_than_are_kept(through):
    for start in (0, 500, 0, 3):
        item = {new_key(number): {new_key(number + 1): number} for number in range(start, start + 1000)}
        assert through(item) == item
        item = {chr(number): number for number in range(1, 3000)} | {"k" * number: number for number in range(40)}
        assert through(item) == item


@contextlib.contextmanager
def collecting(call):
    """Run `call` in the middle of whatever makes containers, as the garbage collector may run anything."""
    running = False

    def run(phase, _):
        nonlocal running
        if phase == "start" and not running:
            running = True
            call()
            running = False

    threshold = gc.get_threshold()
    gc.callbacks.append(run)
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(run)


def test_messages_amid_a_message(through):
    inner = fastmp.Queue()

    def receive():
        inner.put({new_key(): [1, new_key(1)]})
        assert inner.get() == {new_key(): [1, new_key(1)]}

    item = [{new_key(): [number, {new_key(): [2.5, new_key(1)]}]} for number in range(20)]
    expected = by_pickle(item)
    receive()
    with collecting(receive):
        got = through(item)
    assert got == item
    assert identities(got) == identities(expected)


def test_a_list_that_is_emptied_while_it_is_filled(through):
    size = 1237

    def empty():
        for found in gc.get_objects():
            if type(found) is list and len(found) == size and found is not item:
                found.clear()

    item = [1, 2.5, "text", []] * (size // 4) + [[]]
    assert len(item) == size
    with collecting(empty), contextlib.suppress(IndexError):
        got = through(item)
        assert got == item
    assert through(item) == item


FIRST = """
import gc
import fastmp

queue, inner = fastmp.Queue(), fastmp.Queue()

def run(phase, _, running=[]):
    if phase == "start" and not running:
        running.append(True)
        inner.put({"a": [number.real for number in range(5)]})
        inner.get()
        running.clear()

item = [{"b": [1]}] * 20
gc.collect()
gc.callbacks.append(run)
gc.set_threshold(1)
queue.put(item)
assert queue.get() == item
"""


def test_the_first_message_amid_the_first_message():
    """What is made once for all messages is made while others' code runs, which may send too."""
    subprocess.run([sys.executable, "-c", FIRST], check=True, timeout=60)


EMPTIED = """
import gc, os
import fastmp

queue = fastmp.Queue()
queue.put({"no list": 1})
queue.get()
item = [1.5] * 10

def run(phase, _):
    item.clear()

def put(threshold):
    gc.collect()
    gc.callbacks.append(run)
    gc.set_threshold(threshold)
    queue.put(item)
    os._exit(0)

for threshold in range(1, 12):
    child = os.fork()
    if child == 0:
        put(threshold)
    assert os.waitpid(child, 0)[1] == 0, threshold
"""


def test_the_first_list_is_emptied_when_it_is_written():
    """Where lists have their items is looked for before any is written: that runs others' code."""
    subprocess.run([sys.executable, "-c", EMPTIED], check=True, timeout=60)
