"""Whatever object graph goes in, what comes out cannot be told from what the stdlib's pickler gives.

FASTMP_TEST_EXAMPLES graphs for each kind of channel.
"""

import os
import pickle
from multiprocessing.reduction import ForkingPickler

import fastmp
import pytest
from children import graphs
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

COUNT = int(os.environ.get("FASTMP_TEST_EXAMPLES", "250"))
pytestmark = pytest.mark.timeout(60 + COUNT / 20, method="signal")
EXAMPLES = settings(
    max_examples=COUNT,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    database=None,
)
PARTS = st.lists(st.integers(0, 15), max_size=6)
ATOM = st.tuples(st.integers(0, len(graphs.ATOMS) - 1), st.just([]))
PLAIN = ["list", "dict", "tuple", "set", "frozenset", "rows", "same thrice"]  # what needs no pickle
ANY = st.tuples(st.sampled_from([*graphs.LATER, *graphs.AT_ONCE]), PARTS)
NODES = st.lists(ATOM | ANY, min_size=1, max_size=16)
PLAIN_NODES = st.lists(ATOM | st.tuples(st.sampled_from(PLAIN), PARTS), min_size=1, max_size=16)


@pytest.fixture(scope="module", params=["queue", "pipe"])
def through(request):
    if request.param == "queue":
        queue = fastmp.Queue()
        yield lambda item: (queue.put(item), queue.get())[1]
    else:
        left, right = fastmp.Pipe()
        yield lambda item: (left.send(item), right.recv())[1]


def outcome(way, item):
    """What is told of the result, or of what is raised."""
    try:
        got = way(item)
    except Exception as error:
        return type(error)
    return graphs.canonical(got)


def by_pickle(item):
    return pickle.loads(ForkingPickler.dumps(item))


def expect_same(through, nodes, whole):
    expected = outcome(by_pickle, graphs.build(nodes, whole))
    assert outcome(through, graphs.build(nodes, whole)) == expected
    # A codec may remember: what it knows of the first changes nothing about the second.
    item = graphs.build(nodes, whole)
    before = graphs.canonical(item)
    assert outcome(through, item) == outcome(through, item) == expected
    assert graphs.canonical(item) == before


@EXAMPLES
@given(NODES, st.booleans())
# A circle through what makes an object: too deep, for both.
@example([("list", [1]), ("reduced", [0])], False)
@example([("stateful", [0, 1]), ("tuple", [0]), ("stateful", [1, 0])], True)
def test_any_graph(through, nodes, whole):
    expect_same(through, nodes, whole)


@EXAMPLES
@given(PLAIN_NODES, st.booleans())
def test_plain_graphs(through, nodes, whole):
    expect_same(through, nodes, whole)


def test_each_kind_is_told_apart():
    """The comparison sees what differs."""
    for kind in [*graphs.LATER, *graphs.AT_ONCE]:
        nodes = [(16, []), (20, []), ("list", [0, 1]), (kind, [2, 0, 1, 2])]
        one = graphs.canonical(graphs.build(nodes, True))
        assert one == graphs.canonical(graphs.build(nodes, True))
        assert one != graphs.canonical(graphs.build([*nodes[:3], (kind, [0])], True)), kind
    text = "".join(["a", "b"])
    assert graphs.canonical([text, text]) != graphs.canonical([text, "".join(["a", "b"])])
    assert graphs.canonical(0.0) != graphs.canonical(-0.0)
    assert graphs.canonical(True) != graphs.canonical(1)
    assert graphs.canonical({1: 2, 3: 4}) != graphs.canonical({3: 4, 1: 2})
