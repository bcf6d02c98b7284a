"""Objects of every make that refer to each other at random, and a comparison that overlooks nothing."""

import array
import collections
import copyreg
import datetime
import decimal
import enum
import fractions
import functools
import itertools
import math
import operator
import pathlib
import re
import struct
import uuid
from multiprocessing.reduction import ForkingPickler

from children.objects import Blob, Colour, Flags, Items, Number, Pair, Ratio, Record, Reduced, Row, Slotted, Table, Text


class Thing:
    """Has a dict, and is equal to nothing."""


class Slots:
    __slots__ = ("left", "right", "__weakref__")


class SlotsAndDict(Slots):
    __slots__ = ("middle", "__dict__")


class Stateful:
    """Its state is a list, which it looks at as it comes: what is in it by then shows the order of making."""

    def __init__(self):
        self.held, self.seen = [], None

    def __getstate__(self):
        return self.held, len(self.held)

    def __setstate__(self, state):
        self.held, whole = state
        self.seen = len(self.held), whole, [type(one).__name__ for one in self.held]


class Quiet(Stateful):
    """Its state may be empty, and then says nothing."""

    def __getstate__(self):
        return self.held or None

    def __setstate__(self, state):
        self.held, self.seen = state, len(state)


class NewArgs(tuple):
    """Made by `__new__` with a keyword."""

    def __new__(cls, *items, name=None):
        self = super().__new__(cls, items)
        self.name = name
        return self

    def __getnewargs_ex__(self):
        return tuple(self), {"name": self.name}


class Five(list):
    """Reduced to all that there can be: what makes it, state, items and pairs."""

    def __init__(self, tag="made"):
        super().__init__()
        self.tag, self.table = tag, {}

    def __setitem__(self, key, value):
        self.table[key] = value

    def __reduce__(self):
        return Five, (self.tag,), {"tag": self.tag}, iter(list(self)), iter(list(self.table.items()))


class Six(Thing):
    """With a function that sets its state."""

    def __reduce__(self):
        return Six, (), vars(self), None, None, set_state


def set_state(made, state):
    vars(made).update(state)
    vars(made)["order"] = list(state)


class Singleton:
    def __reduce__(self):
        return "SINGLETON"


SINGLETON = Singleton()


class Registered(Thing):
    """By copyreg."""


class ForkingRegistered(Thing):
    """By the stdlib's pickler for processes."""


def make_registered(kind, state):
    made = kind()
    vars(made).update(state)
    made.by_hand = True
    return made


def reduce_registered(one):
    return make_registered, (type(one), dict(vars(one)))


copyreg.pickle(Registered, reduce_registered)
ForkingPickler.register(ForkingRegistered, reduce_registered)


class Trouble(Exception):
    """With arguments of its own."""

    def __init__(self, what, *more):
        super().__init__(what, *more)
        self.what = what


class Mixed(enum.StrEnum):
    A = "a"
    LONG = "long" * 20


class IntKey(enum.IntEnum):
    ONE = 1
    BIG = 2**70


EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30), "east")

# Anew each time: what is one object here is so because of the graph, and not of a literal.
ATOMS = [
    lambda: None,
    lambda: True,
    lambda: int("7"),
    lambda: int("1000"),
    lambda: -(2 ** int("31")),
    lambda: 2 ** int("63"),
    lambda: 3 ** int("700"),
    lambda: float("1.25"),
    lambda: float("nan"),
    lambda: struct.unpack("<d", bytes.fromhex("010000000000f8ff"))[0],
    lambda: -math.inf,
    lambda: -0.0,
    lambda: complex(float("-0.0"), float("nan")),
    lambda: "",
    lambda: chr(233),
    lambda: "".join(["te", "xt"]),
    lambda: "".join(["key", "word"]),
    lambda: "".join(["\ud800", "surrogate", "\udfff"]),
    lambda: "".join(["\N{SNOWMAN}", "\N{GRINNING FACE}"]) * 9,
    lambda: "x" * int("400"),
    lambda: bytes([1, 2, 3]),
    lambda: bytes([200]),
    lambda: bytes(int("300")),
    lambda: Blob(b"blob"),
    lambda: Number(5),
    lambda: Ratio(0.5),
    lambda: Text("text"),
    lambda: decimal.Decimal("1.50"),
    lambda: decimal.Decimal("-sNaN123"),
    lambda: fractions.Fraction(22, 7),
    lambda: datetime.datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=datetime.UTC),
    lambda: datetime.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=EAST),
    lambda: datetime.date(1, 1, 1),
    lambda: datetime.time(1, 2, 3, fold=1),
    lambda: datetime.timedelta(-1, 5, 7),
    lambda: uuid.UUID(int=5),
    lambda: pathlib.PurePosixPath("a/b"),
    lambda: range(3, 30, 4),
    lambda: slice(1, None, 2),
    lambda: Colour.RED,
    lambda: Flags.A | Flags.B,
    lambda: Mixed.LONG,
    lambda: IntKey.BIG,
    lambda: Ellipsis,
    lambda: NotImplemented,
    lambda: Thing,
    lambda: int,
    lambda: len,
    lambda: math.sqrt,
    lambda: set_state,
    lambda: dict.fromkeys,
    lambda: operator.itemgetter(1, "a"),
    lambda: re.compile("a+", re.IGNORECASE),
    lambda: SINGLETON,
    lambda: (),
    lambda: frozenset(),
    lambda: array.array("d", [1.5, -0.0]),
    lambda: bytearray(b"array"),
    lambda: bytearray(70_000),
    lambda: bytes(70_000),
    lambda: collections.Counter("hello"),
]

# Made empty, and filled once all are there: with any others, so that there are circles.
LATER = {
    "list": (list, list.extend),
    "dict": (dict, lambda made, parts: made.update(pairs(parts))),
    "items": (Items, list.extend),
    "table": (Table, lambda made, parts: (made.update(pairs(parts)), setattr(made, "more", parts))),
    "ordered": (collections.OrderedDict, lambda made, parts: (made.update(pairs(parts)), set_first(made))),
    "default": (lambda: collections.defaultdict(list), lambda made, parts: made.update(pairs(parts))),
    "deque": (lambda: collections.deque(maxlen=5), collections.deque.extend),
    "set": (set, lambda made, parts: made.update(filter(has_value_hash, parts))),
    "thing": (Thing, lambda made, parts: vars(made).update(named(parts))),
    "record": (lambda: Record("name", []), lambda made, parts: fill_record(made, parts)),
    "slots": (Slots, lambda made, parts: set_all(made, ["left", "right"], parts)),
    "slots and dict": (SlotsAndDict, lambda made, parts: set_all(made, ["left", "middle", "other"], parts)),
    "stateful": (Stateful, lambda made, parts: made.held.extend(parts)),
    "quiet": (Quiet, lambda made, parts: made.held.extend(parts)),
    "five": (Five, lambda made, parts: (made.extend(parts), made.table.update(pairs(parts)))),
    "six": (Six, lambda made, parts: vars(made).update(named(parts))),
    "error": (lambda: Trouble("what", 1), lambda made, parts: vars(made).update(named(parts))),
}

# Made of what is there already.
AT_ONCE = {
    "tuple": tuple,
    "pair": lambda parts: Pair(*[*parts, None, None][:2]),
    "row": Row,
    "frozenset": lambda parts: frozenset(filter(has_value_hash, parts)),
    "slotted": lambda parts: Slotted(*[*parts, 1, 2][:2]),
    "new args": lambda parts: NewArgs(*parts, name=len(parts)),
    "reduced": lambda parts: Reduced(parts),
    "registered": lambda parts: make_registered(Registered, named(parts)),
    "registered for forks": lambda parts: make_registered(ForkingRegistered, named(parts)),
    "partial": lambda parts: functools.partial(set_state, *parts, key=len(parts)),
    "method": lambda parts: next((one.append for one in parts if type(one) in (list, Items)), None),
    "named text": lambda parts: with_attributes(Text("named"), parts),
    "same thrice": lambda parts: [parts[:1] * 3, tuple(parts[:1] * 3)],
    "rows": lambda parts: [dict(zip(["a", "bb", "".join(["c", "c"])], row, strict=False)) for row in [parts] * 4],
    "deep": lambda parts: functools.reduce(
        lambda inner, wrap: wrap(inner), [lambda x: [x], lambda x: (x,)] * 40, parts
    ),
    "number of attributes": lambda parts: with_attributes(Number(len(parts)), parts),
}


def pairs(parts):
    """Keys and values; what cannot be a key is none."""
    return {(one if is_hashable(one) else number): other for number, (one, other) in enumerate(zip(parts, parts[::-1]))}  # noqa: B905


def named(parts):
    return {f"attribute{number}": part for number, part in enumerate(parts)}


def with_attributes(made, parts):
    vars(made).update(named(parts))
    return made


def set_first(made):
    if made:
        made.move_to_end(next(iter(made)))


def set_all(made, names, parts):
    for name, part in zip(names, parts, strict=False):
        setattr(made, name, part)


def fill_record(made, parts):
    made.rows.extend(parts)
    made.parent = parts[0] if parts else None


def is_hashable(one):
    try:
        hash(one)
    except TypeError:
        return False
    return True


def has_value_hash(one):
    """Does its hash follow from its value? That of a nan is its own, and decides where in a set it is."""
    if isinstance(one, (tuple, frozenset)):
        return is_hashable(one) and all(map(has_value_hash, one))
    if isinstance(one, (float, complex, decimal.Decimal)):
        return one == one if not isinstance(one, decimal.Decimal) else not one.is_nan()
    return isinstance(one, (int, str, bytes, type(None), fractions.Fraction, datetime.date, uuid.UUID, enum.Enum))


def build(nodes, whole):
    """The graph that these (kind, numbers of parts) describe: its last node, or all if `whole`."""
    made, fill = [], []
    for kind, numbers in nodes:
        if kind in LATER:
            new, add = LATER[kind]
            made.append(new())
            fill.append((add, made[-1], numbers))
        elif kind in AT_ONCE:
            made.append(AT_ONCE[kind]([made[number % len(made)] for number in numbers] if made else []))
        else:
            made.append(ATOMS[kind]())
    for add, one, numbers in fill:
        add(one, [made[number % len(made)] for number in numbers])
    return made if whole else made[-1]


def canonical(root):
    """Everything that can be told of an object, in one row.

    Each object that is met gets a number, atoms too; where it is met again there is the number. So two rows are equal
    only if types, values to the bit, orders, and what is one object with what, are the same.
    """
    numbers, row, todo = {}, [], [root]
    alive = []
    while todo:
        one = todo.pop()
        if id(one) in numbers:
            row.append(numbers[id(one)])
            continue
        numbers[id(one)] = len(numbers)
        alive.append(one)
        row.append(type(one))
        todo.extend(reversed(list(look(one, row.append))))
    return row


def look(one, tell):
    """Tells what an object is, and gives the objects that it refers to."""
    if isinstance(one, float):
        tell(struct.pack("<d", one))
    elif isinstance(one, complex):
        tell(struct.pack("<dd", one.real, one.imag))
    elif isinstance(one, int):
        tell(int.__repr__(one) if abs(one) < 2**64 else int.__format__(one, "x"))
    elif isinstance(one, str):
        tell(str.encode(one, "utf-8", "surrogatepass"))
    elif isinstance(one, (bytes, bytearray)):
        tell(bytes(one))
    elif isinstance(one, array.array):
        tell((one.typecode, one.tobytes()))
    elif isinstance(one, dict):
        yield from itertools.chain.from_iterable(
            dict.items(one) if type(one) is not collections.OrderedDict else one.items()
        )
        yield getattr(one, "default_factory", None)
    elif isinstance(one, (set, frozenset)):
        yield from one  # in its own order: hashes follow from values here
    elif isinstance(one, (list, tuple, collections.deque)):
        tell((len(one), getattr(one, "maxlen", None)))
        yield from one
    elif isinstance(one, BaseException):
        yield one.args
    elif isinstance(one, functools.partial):
        yield from (one.func, one.args, one.keywords)
    elif isinstance(one, (type, enum.Enum, Singleton)) or hasattr(one, "__code__"):
        tell(id(one))
        return
    elif type(one) is type([].append):  # of builtins: functions, and methods with their object
        tell(one.__qualname__)
        yield one.__self__
    elif not isinstance(one, (Thing, Slots, Stateful, Record, Slotted, Reduced)):
        tell(repr(one))
        yield getattr(one, "tzinfo", None)
        return
    slots = itertools.chain.from_iterable(getattr(kind, "__slots__", ()) for kind in type(one).__mro__)
    for name in slots:
        if name not in ("__dict__", "__weakref__"):
            tell((name, hasattr(one, name)))
            yield getattr(one, name, None)
    yield from itertools.chain.from_iterable(getattr(one, "__dict__", {}).items())
