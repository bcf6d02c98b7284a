"""What goes through a Queue or a Connection comes out the same, whatever it is."""

import array
import pickle
import sys

import pytest
from children import objects, queues

try:
    import numpy
except ImportError:  # the tests' own dependency; without it the arrays alone are not tested
    numpy = None


class Through:
    """One way there and back: a queue, or the two ends of a pipe."""

    def __init__(self, mp, kind):
        if kind == "queue":
            self.left = self.right = None
            self.queue = mp.Queue()
            self.put, self.get = self.queue.put, self.queue.get
        else:
            self.queue = None
            self.left, self.right = mp.Pipe()
            self.put, self.get = self.left.send, self.right.recv

    def __call__(self, item):
        self.put(item)
        return self.get()

    def close(self):
        if self.queue is not None:
            self.queue.cancel_join_thread()
            self.queue.close()
        else:
            self.left.close()
            self.right.close()


@pytest.fixture(params=["queue", "pipe"])
def through(request, mp):
    way = Through(mp, request.param)
    yield way
    way.close()


def by_pickle(item):
    return pickle.loads(pickle.dumps(item))


def test_atoms(through):
    for item in objects.ATOMS:
        assert objects.fingerprint(through(item)) == objects.fingerprint(item), repr(item)


def test_atoms_in_containers(through):
    for item in objects.ATOMS:
        for wrap in (lambda x: [x], lambda x: (x, 1), lambda x: {"key": x}, lambda x: [[(x,)], {0: {1: x}}]):
            wrapped = wrap(item)
            assert objects.fingerprint(through(wrapped)) == objects.fingerprint(by_pickle(wrapped)), repr(wrapped)


def test_containers_and_classes(through):
    for item in objects.containers():
        assert objects.fingerprint(through(item)) == objects.fingerprint(by_pickle(item)), repr(item)


def test_aliases_stay_aliases(through):
    for item in objects.aliased():
        assert objects.fingerprint(through(item)) == objects.fingerprint(by_pickle(item)), repr(item)
    first, second = through([[1]] * 2)
    assert first is second
    loop = []
    loop.append(loop)
    got = through(loop)
    assert got[0] is got


def test_aliases_end_with_the_message(through):
    shared = [1]
    first, second = through(shared), through(shared)
    assert first == second
    assert first is not second


def test_deep(through):
    item = objects.deep(200)
    assert objects.fingerprint(through(item)) == objects.fingerprint(item)


def test_too_deep_is_an_error_and_no_more(through, native):
    item = objects.deep(100_000)
    if through.queue is not None and not native:
        through.put = pickle.dumps  # the feeder thread would print the error
    with pytest.raises(RecursionError):
        through.put(item)
    while item:  # the interpreter's own way to free it recurses
        item = item.pop()


def test_usable_after_an_error(through, native):
    if through.queue is None or native:
        with pytest.raises(objects.SomeError):
            through.put([b"x" * 100_000, objects.Unsendable()])
    through.put(objects.Unreceivable())
    with pytest.raises(objects.SomeError):
        through.get()
    assert through("after") == "after"


@pytest.mark.fastmp_only("the stdlib's locks do not go with messages")
def test_a_process_started_while_a_message_is_pickled(mp, through, crew):
    """What is pickled for the process is pickled for a start, what is pickled for the message for
    that.
    """
    box = mp.Queue()

    def start():
        crew.run(queues.put_all, box, [1, 2])

    left, right = mp.Pipe()
    for shared in (mp.Lock(), mp.Value("i", 5), mp.Queue(), left):
        got = through([shared, objects.StartsWhenPickled(start, shared), shared])
        assert [box.get(), box.get()] == [1, 2]
        assert [type(got[0]), type(got[1][0])] == [type(shared)] * 2
    got[0].send("by the copy")
    assert right.recv() == "by the copy"


@pytest.mark.fastmp_only("the stdlib's locks do not go with messages")
@pytest.mark.method("spawn")
def test_a_message_put_while_a_process_is_started(mp, crew):
    """And another process, which is started in between."""
    box, other, lock = mp.Queue(), mp.Queue(), mp.Lock()

    def put():
        box.put(lock)
        crew.run(queues.put_all, other, [lock, 2])

    crew.run(queues.put_all, box, objects.StartsWhenPickled(put, lock))
    locks = [box.get(), box.get(), other.get()]
    assert other.get() == 2
    lock.acquire()
    assert [one.acquire(False) for one in locks] == [False] * 3
    lock.release()


def test_wide(through):
    # Less than a pipe's buffer holds: nobody reads while it is sent.
    item = [list(range(2000)), {str(i): i for i in range(1000)}, ("x",) * 500]
    assert objects.fingerprint(through(item)) == objects.fingerprint(by_pickle(item))


def test_a_million_items(mp, crew):
    inbox, outbox = mp.Queue(), mp.Queue()
    crew.start(queues.echo, inbox, outbox)
    item = list(range(1_000_000))
    inbox.put(item)
    assert outbox.get() == item
    inbox.put(None)
    crew.join()


def test_views_do_not_pickle(mp):
    left, right = mp.Pipe()
    with pytest.raises(TypeError):
        left.send(memoryview(b"abc"))
    left.send("after")
    assert right.recv() == "after"


def test_array_module(through):
    for code in "bBhHiIlLqQfd":
        item = array.array(code, [1, 2, 3])
        got = through(item)
        assert got == item
        assert got.typecode == code
        got.append(4)


@pytest.mark.skipif(numpy is None, reason="numpy is not installed")
def test_numpy(through):
    items = [
        numpy.arange(10),
        numpy.arange(1000.0).reshape(10, 100)[::2, ::-3],
        numpy.asfortranarray(numpy.arange(12).reshape(3, 4)),
        numpy.zeros((0, 3)),
        numpy.array(5),
        numpy.array(["a", "bc"]),
        numpy.array([1, "x", None], dtype=object),
        numpy.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        numpy.float32(1.5),
    ]
    for item in items:
        got = through(item)
        assert type(got) is type(item)
        assert got.dtype == item.dtype
        assert got.shape == item.shape
        assert (got == item).all()
    both = numpy.arange(5)
    first, second = through([both, both])
    assert first is second


def echoed(mp, crew, count):
    """So many pairs of new queues; what goes into the first of one comes back by its second."""
    pairs = [(mp.Queue(), mp.Queue()) for _ in range(count)]
    crew.start(queues.echo_all, pairs)
    for inbox, outbox in pairs:
        yield inbox, outbox
        inbox.put(None)
    crew.join()


@pytest.mark.skipif(numpy is None, reason="numpy is not installed")
def test_numpy_is_writable_after_get(mp, crew):
    counts = [3, 1000, 100_000, 4_000_000]
    for count, (inbox, outbox) in zip(counts, echoed(mp, crew, len(counts)), strict=True):
        item = numpy.arange(count, dtype="f8")
        inbox.put(item)
        got = outbox.get()
        assert (got == item).all()
        assert got.flags.writeable
        got += 1
        inbox.put(item)
        assert (outbox.get() == item).all()
        assert got[-1] == count


@pytest.mark.skipif(numpy is None, reason="numpy is not installed")
def test_read_only_arrays_arrive_writable(mp, native, crew):
    if not native and sys.version_info >= (3, 14):
        pytest.skip("its protocol is 5 there, which keeps them read-only")
    sizes = [0, 8, 1000, 100_000, 4_000_000]
    for size, (inbox, outbox) in zip(sizes, echoed(mp, crew, len(sizes)), strict=True):
        frozen = numpy.arange(size // 8, dtype="f8")
        frozen.flags.writeable = False
        for item in (
            numpy.frombuffer(bytes(size), "u1"),
            frozen,
            frozen.reshape(-1, 1),
            numpy.asfortranarray(frozen.reshape(2, -1) if size % 16 == 0 else frozen),
            numpy.broadcast_to(numpy.float64(1.5), (size // 8,)),
        ):
            for wrap in (lambda x: x, lambda x: [x, {"again": x}]):
                inbox.put(wrap(item))
                got = outbox.get()
                if isinstance(got, list):
                    assert got[0] is got[1]["again"]
                    got = got[0]
                assert (got.dtype, got.shape) == (item.dtype, item.shape)
                assert (got == item).all()
                assert got.flags.writeable
                got += 1
            assert not item.flags.writeable or item.base is None


@pytest.mark.parametrize("size", [100, 100_000])
def test_read_only_buffers_of_other_classes(native, through, size):
    """Each class decides by protocol.

    What comes of it may be written to as it may with the stdlib.
    """
    if not native and sys.version_info >= (3, 14):
        pytest.skip("its protocol is 5 there, which keeps them read-only")
    content = bytes(range(100)) * (size // 100)
    for kind in (objects.Buffered, objects.BufferedState):
        for data in (content, bytearray(content), memoryview(content), memoryview(bytearray(content)).toreadonly()):
            got = through(kind(data))
            assert type(got) is kind
            assert got.data == content
            got.data[0] = 5


@pytest.mark.parametrize("kind", [bytes, bytearray, str])
def test_sizes(mp, crew, kind):
    """Each the first message of a queue."""
    sizes = [0, 1, 4095, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 32 << 20]
    for size, (inbox, outbox) in zip(sizes, echoed(mp, crew, len(sizes)), strict=True):
        item = "\N{SNOWMAN}" * (size // 3) if kind is str else kind(size)
        if kind is bytearray and size:
            item[-1] = item[size // 2] = 7
        for _ in range(2):
            inbox.put(item)
            got = outbox.get()
            assert type(got) is kind
            assert got == item, size


def test_many_sizes_in_a_row(mp, crew):
    # Every length around powers of two, one after another: wraps and pads at all of a ring's
    # offsets.
    inbox, outbox = mp.Queue(), mp.Queue()
    crew.start(queues.echo, inbox, outbox)
    sizes = [max(0, (1 << power) + off) for power in range(18) for off in range(-9, 10)]
    for i, size in enumerate(sizes):
        inbox.put(bytes([i % 256]) * size)
    for i, size in enumerate(sizes):
        assert outbox.get() == bytes([i % 256]) * size
    inbox.put(None)
    crew.join()


@pytest.mark.parametrize("maxsize", [1, 3])
def test_large_through_a_bounded_queue(mp, crew, maxsize):
    queue = mp.Queue(maxsize)
    crew.start(queues.put_pattern, queue, 12, 8 << 20)
    queues.take_pattern(queue, 12, 8 << 20)
    crew.join()
    assert queue.qsize() == 0
