"""Whatever nesting of builtins goes in, what comes out is what pickle gives: values, types, aliases, order."""

import contextlib
import pickle

import fastmp
import pytest
from children import objects
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

EXAMPLES = settings(
    max_examples=250,
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
    """Any bytes may be received as an object: the decoder raises or returns, and the next message is fine."""
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
