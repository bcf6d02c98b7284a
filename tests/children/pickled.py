"""What does not pickle, and what holds it."""

import dataclasses


@dataclasses.dataclass
class Job:
    state: object


class Slots:
    __slots__ = ("lock", "number")

    def __init__(self, lock):
        self.number, self.lock = 1, lock


class Counting:
    """Fails, and counts how often it was asked."""

    def __init__(self, error, *args):
        self.error, self.args, self.asked = error, args, 0

    def __reduce__(self):
        self.asked += 1
        raise self.error(*self.args)


def local_class():
    class Local:
        def method(self):
            pass

    return Local


def closure_over(value):
    def closure():
        return value

    return closure


def cyclic(lock):
    ring = [1]
    ring.append({"me": ring})
    ring.append((lock, ring))
    return ring


class PlainPickler:
    """A pickler of a program's own, with a format of its own."""

    @staticmethod
    def dumps(obj):
        import pickle

        return pickle.dumps(obj)[::-1]

    @staticmethod
    def loads(data):
        import pickle

        return pickle.loads(data[::-1])
