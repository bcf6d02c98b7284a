"""Data of a dozen shapes through a queue, in one thread, against pickle's own `dumps` and `loads`.

For `multiprocessing` the measure is pickle alone: no queue could be faster that pickles as it does.
"""

import collections
import dataclasses
import decimal
import pickle

from timing import time_statement

from .base import case

Point = collections.namedtuple("Point", "x y name")


@dataclasses.dataclass
class Row:
    number: int
    share: float
    name: str


def _records(count):
    return [
        {
            "timestamp": i,
            "customer_name": "x",
            "transaction_id": i * 7,
            "amount_in_cents": i,
            "currency_code": "EUR",
            "merchant_category": "groceries and household",
        }
        for i in range(count)
    ]


def _nested(depth):
    item = []
    for _ in range(depth):
        item = [item]
    return item


SHAPES = {
    "records-1000": ("1,000 dicts of six fields", lambda: _records(1000)),
    "records-10": ("10 dicts of six fields", lambda: _records(10)),
    "rows": ("1,000 tuples of three", lambda: [(i, f"a{i}", None) for i in range(1000)]),
    "ints": ("10,000 ints", lambda: list(range(10_000))),
    "floats": ("10,000 floats", lambda: [i / 2 for i in range(10_000)]),
    "texts": ("1,000 strings", lambda: [f"text {i}" for i in range(1000)]),
    "same-text": ("one string 1,000 times", lambda: ["".join(["a", "text"])] * 1000),
    "dict": ("a dict of 1,000 strings", lambda: {f"key{i}": i for i in range(1000)}),
    "set": ("a set of 1,000 strings", lambda: {f"key{i}" for i in range(1000)}),
    "nested": ("20 levels of lists", lambda: _nested(20)),
    "dataclass": ("a dataclass", lambda: Row(1, 2.5, "abc")),
    "dataclasses": ("100 dataclasses", lambda: [Row(i, 2.5, "abc") for i in range(100)]),
    "namedtuple": ("a namedtuple", lambda: Point(1, 2.5, "abc")),
    "decimals": ("100 Decimals", lambda: [decimal.Decimal(i) / 7 for i in range(100)]),
    "late": ("100 dicts, and a Decimal behind", lambda: [*_records(100), decimal.Decimal(1)]),
}


def _register(name, title, make):
    @case(f"shape-{name}", f"Queue put + get to pickle's dumps + loads, {title}", goal=1)
    def measure(mp, budget):
        item = make()
        if mp.__name__ == "multiprocessing":
            names = {"dumps": pickle.dumps, "loads": pickle.loads, "item": item}
            return time_statement("loads(dumps(item))", "", names, budget)
        queue = mp.Queue()
        return time_statement(
            "put(item); get()", "put, get = queue.put, queue.get", {"queue": queue, "item": item}, budget
        )


for _name, (_title, _make) in SHAPES.items():
    _register(_name, _title, _make)
