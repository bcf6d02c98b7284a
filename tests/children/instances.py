"""Classes whose instances could be taken for plain ones, and are not all."""

import abc
import collections
import dataclasses
import typing


@dataclasses.dataclass
class Plain:
    a: object = 1
    b: object = "two"


class Bare:
    pass


class Sub(Plain):
    pass


class Abstract(abc.ABC):
    @abc.abstractmethod
    def method(self): ...


class Concrete(Abstract):
    def __init__(self, a):
        self.a = a

    def method(self): ...


class Typed(typing.Generic[typing.TypeVar("T")]):
    def __init__(self, a):
        self.a = a


class SetsState(Plain):
    """Keeps what it was given, and as it was at that time."""

    def __setstate__(self, state):
        self.state = state
        self.seen = repr(state)


class GetsState(Plain):
    def __getstate__(self):
        return {"a": "from getstate"}


class Reduces(Plain):
    def __reduce__(self):
        return Plain, ("from reduce",)


class ReducesEx(Plain):
    def __reduce_ex__(self, protocol):
        return Plain, ("from reduce_ex",)


class NewArgs(Plain):
    def __new__(cls, *args):
        self = super().__new__(cls)
        self.made_with = args
        return self

    def __getnewargs__(self):
        return ("newargs",)


class NewArgsEx(Plain):
    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        self.made_with = args, kwargs
        return self

    def __getnewargs_ex__(self):
        return ("newargs",), {"by": "name"}


class New(Plain):
    def __new__(cls, *args):
        self = super().__new__(cls)
        self.made_by = "new"
        return self


class Slots:
    __slots__ = ("__dict__", "a")

    def __init__(self, a=1):
        self.a = a
        self.b = "in the dict"


class Poses(Plain):
    @property
    def __class__(self):
        return Plain


class Answers(Plain):
    """Has any attribute, but for those that Python itself asks for."""

    def __getattr__(self, name):
        if name.startswith("__") and name != "__setstate__":
            raise AttributeError(name)
        return lambda *args: self.__dict__.update(answered=(name, *map(repr, args)))


class HidesDict(Plain):
    @property
    def shown(self):
        return self.__dict__["shown"]


class Key:
    """Two of these are equal when their numbers are."""

    def __init__(self, number):
        self.number = number

    def __repr__(self):
        return f"Key({self.number})"

    def __hash__(self):
        return hash(self.number)

    def __eq__(self, other):
        return self.number == other.number if isinstance(other, Key) else NotImplemented


class Meta(type):
    pass


class OfMeta(metaclass=Meta):
    pass


class List(list):
    pass


class Outer:
    class Inner:
        pass


Point = collections.namedtuple("Point", "x y")


class SubPoint(Point):
    pass


class TypedPoint(typing.NamedTuple):
    x: int
    y: object = None


Odd = collections.namedtuple("Odd", "x y")
Odd.__getnewargs__ = lambda self: ("odd", "args")

Reducing = collections.namedtuple("Reducing", "x y")
Reducing.__reduce_ex__ = lambda self, protocol: (list, ((self.x, self.y),))
