"""Odd things to send, and a comparison that sees types and aliases."""

import collections
import dataclasses
import enum
import pickle
import struct


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


class Flags(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass
class Record:
    name: str
    rows: list
    parent: "Record | None" = None


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int
    y: float


class Number(int):
    pass


class Ratio(float):
    pass


class Text(str):
    pass


class Blob(bytes):
    pass


class Items(list):
    pass


class Table(dict):
    pass


class Row(tuple):
    pass


Pair = collections.namedtuple("Pair", "left right")


class Reduced:
    """Travels by `__reduce__`."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return Reduced, (self.content,)


class Buffered:
    """Its bytes go out of band where the protocol has that."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return type(self)._make, (pickle.PickleBuffer(self.data) if protocol >= 5 else bytearray(self.data),)

    @classmethod
    def _make(cls, data):
        return cls(data)


class BufferedState(Buffered):
    """They are part of its state."""

    def __reduce_ex__(self, protocol):
        data = pickle.PickleBuffer(self.data) if protocol >= 5 else bytearray(self.data)
        return type(self), (None,), {"data": data}


class SomeError(Exception):
    """Raised where one of the classes below says so."""


class Unsendable:
    def __reduce__(self):
        raise SomeError("cannot be pickled")


class Unreceivable:
    def __reduce__(self):
        return raise_some_error, ()


def raise_some_error():
    raise SomeError("cannot be unpickled")


class PutsWhenPickled:
    """Its `__reduce__` puts on a queue itself."""

    queue = None  # set in the one process that pickles it

    def __reduce__(self):
        type(self).queue.put("from inside")
        return str, ("outer",)


class StartsWhenPickled:
    """Its `__reduce__` starts a process, gives it `shared`, waits for it, and then travels with
    `shared` itself.
    """

    def __init__(self, start, shared):
        self.start = start  # not pickled
        self.shared = shared

    def __reduce__(self):
        self.start()
        return list, ((self.shared,),)


ATOMS = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31 - 1,
    -(2**31) - 1,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    2**64,
    10**400,
    -(10**400),
    0.0,
    -0.0,
    1.5,
    5e-324,
    float("inf"),
    float("-inf"),
    float("nan"),
    -float("nan"),
    1 + 2j,
    complex(-0.0, float("nan")),
    "",
    "ascii",
    "\N{SNOWMAN}\N{GRINNING FACE}\0",
    "\x80\xff",
    "\ud800 alone \udfff",
    b"",
    b"\0\xff" * 10,
    bytearray(b""),
    bytearray(b"abc"),
    Ellipsis,
    NotImplemented,
]


def containers():
    """Each container made anew: nobody else holds what is inside."""
    return [
        [],
        (),
        {},
        set(),
        frozenset(),
        [1, [2, [3, (4, {5: [6]})]]],
        (1,),
        (1, 2, 3, 4),
        {True: 1},
        {1: 1, 1.5: 2, "1": 3, b"1": 4, (1, (2,)): 5, None: 6, False: 7},
        {"z": 1, "a": 2, "m": {}},
        {1, "a", (2, 3)},
        frozenset({1, frozenset({2})}),
        list(range(1000)),
        ["x" * 1000] * 3,
        collections.OrderedDict([("b", 1), ("a", 2)]),
        collections.defaultdict(list, {1: [2]}),
        collections.deque([1, 2], maxlen=2),
        collections.Counter("hello"),
        range(3, 30, 3),
        slice(1, None, 2),
        Colour.RED,
        Colour.BLUE,
        Flags.A | Flags.B,
        Record("top", [1, 2], Record("inner", [])),
        Slotted(1, -0.0),
        Number(5),
        Ratio(0.5),
        Text("text"),
        Blob(b"blob"),
        Items([1, 2]),
        Table(a=1),
        Row((1, 2)),
        Pair(1, [2]),
        Reduced([1, 2]),
        ValueError("an exception", 1),
        int,
        Record,
        len,
        raise_some_error,
        {Number(1): Text("k"), Text("a"): Row(())},
    ]


def aliased():
    """Objects that hold one thing twice, or themselves."""
    shared = [1, 2]
    twice = [shared, shared]
    crossed = {"a": shared, "b": (shared, {"c": shared})}
    loop = []
    loop.append(loop)
    table = {}
    table["me"] = table
    knot = ([],)
    knot[0].append(knot)
    parent = Record("loop", [])
    parent.parent = parent
    blob = bytearray(b"shared")
    inner = {}
    pair = (inner,)
    return [twice, crossed, loop, table, knot, parent, [blob, blob], [pair, pair, inner], [[]] * 3, [({},)] * 2]


def deep(levels):
    """Lists in lists."""
    top = []
    for _ in range(levels):
        top = [top]
    return top


def fingerprint(root):
    """What an object is, in a form that compares: types, values to the bit, order, and which
    containers are one.

    Identity counts for containers only: whether equal strings or numbers are one object is nobody's
    business.
    """
    numbers = {}
    alive = []

    def walk(item):
        kind = type(item)
        name = kind.__qualname__
        if kind is float:
            return name, struct.pack("<d", item)
        if kind is complex:
            return name, struct.pack("<dd", item.real, item.imag)
        if kind in (int, str, bytes, bool, type(None), range, slice) or item == () and kind is tuple:
            return name, repr(item)
        if isinstance(item, (type, enum.Enum)) or callable(item) and hasattr(item, "__qualname__"):
            return name, id(item)
        if id(item) in numbers:
            return "again", numbers[id(item)]
        numbers[id(item)] = len(numbers)
        alive.append(item)
        parts = []
        if isinstance(item, dict):
            parts += [(walk(key), walk(value)) for key, value in item.items()]
        elif isinstance(item, (set, frozenset)):
            parts += [walk(element) for element in sorted(item, key=repr)]
        elif isinstance(item, (list, tuple, collections.deque)):
            parts += [walk(element) for element in item]
        elif isinstance(item, (int, float, str, bytes, bytearray)):
            parts.append(kind.__mro__[-2].__repr__(item))
        elif isinstance(item, BaseException):
            parts.append(walk(item.args))
        if hasattr(item, "__dict__"):
            parts.append(walk(vars(item)))
        for slot in getattr(kind, "__slots__", ()):
            parts.append(walk(getattr(item, slot)))
        return name, tuple(parts)

    return walk(root)


def pair(first, second):
    return first, second
