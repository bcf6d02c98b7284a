"""Days of traffic in minutes: a queue that is never quite empty takes bursts of 20 MB, and stays as it was.

    python endurance.py [--seconds S] [--shape NAME]

In each lap the queue takes 20 MB in one shape, and all but a few messages are taken out again: the ring never starts
anew. Between laps its counts are moved on by hand, so that each lap is as if a whole turn of 2^28 messages had gone
through in between: a minute of laps stands for some TiB. What a channel could run out of, or lose a little of each
time, is looked at: offsets of the file, its pages, this process's memory, mappings and descriptors; and what a message
costs, in processor time, for other programs may run. Prints a table; exit status 1 says that something rose.
"""

import argparse
import gc
import importlib
import itertools
import os
import random
import sys
import time

from children import usage

BURST = 20_000_000  # bytes
UNREAD = 3  # messages that are left
COUNT_BITS = 28  # of a position's word, the highest
MIB = 1 << 20
SHAPES = {
    "1 of 20 MB": [BURST],
    "20 of 1 MB": [BURST // 20],
    "300 of 67 KB": [67_000],
    "400 of 50 KB": [50_000],
    "4,000 of 5 KB": [5_000],
    "40,000 of 500 B": [500],
    "mixed": [20, 700, 9_000, 64_000, 70_000, 300_000, 3_000_000],
}


class Lane:
    """A queue, and what should be in it."""

    def __init__(self, mp):
        self.queue = mp.Queue()
        # The token keeps the segment's number open.
        self.segment, self.token, _, _, self.front, _ = self.queue._handle()
        self.words = self.find_words()
        self.put, self.got = itertools.count(), itertools.count()
        self.bytes = 0
        self.noise = random.Random(1).randbytes(BURST + 251)
        for _ in range(UNREAD):
            self.put_one(100)

    def find_words(self):
        """Where in a new channel head and tail are, with what each side has seen of the other: all are the same."""
        front = os.pread(self.segment, 4096, self.front)
        words = [int.from_bytes(front[at : at + 8], "little") for at in range(0, len(front), 8)]
        start = next(word for word in words if word and words.count(word) == 4 and word < 1 << 20)
        return [self.front + 8 * at for at, word in enumerate(words) if word == start]

    def move_on(self, messages):
        """As if so many more messages had gone through. Nobody else uses it."""
        for at in self.words:
            word = int.from_bytes(os.pread(self.segment, 8, at), "little")
            word = (word + (messages << 64 - COUNT_BITS)) % 2**64
            os.pwrite(self.segment, word.to_bytes(8, "little"), at)

    def put_one(self, size):
        number = next(self.put)
        data = self.noise[number % 251 : number % 251 + size]
        self.queue.put((number, data) if number % 5 == 0 else data)
        self.bytes += size
        return size

    def get_one(self):
        number, item = next(self.got), self.queue.get()
        if number % 5 == 0:
            told, item = item
            assert told == number, f"{told} instead of {number}"
        start = number % 251
        assert item[:16] == self.noise[start : start + 16][: len(item)], f"message {number} is another"
        assert item[-16:] == self.noise[start : start + len(item)][-16:], f"message {number} is torn"

    def lap(self, sizes, dice):
        """One burst; gives the seconds of processor time that one of its messages took."""
        start, left, count = time.process_time(), BURST, 0
        while left > 0:
            left -= self.put_one(dice.choice(sizes))
            count += 1
        while self.queue.qsize() > UNREAD:
            self.get_one()
        return (time.process_time() - start) / count

    def look(self):
        gc.collect()
        # Of this queue alone: there is no other in this process.
        files = usage.files("fastmp-queue")
        return {
            "file": max((status.st_size for status in files), default=0),
            "pages": sum(status.st_blocks * 512 for status in files),
            "resident": usage.resident_bytes(),
            "mappings": usage.mappings(),
            "descriptors": usage.descriptors(),
        }


def run(mp, seconds, shapes=SHAPES):
    """Laps of all shapes in turn, for so long; gives the lane, costs by shape, and what was seen after each round."""
    lane, dice = Lane(mp), random.Random(2)
    costs, seen = {shape: [] for shape in shapes}, []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(seen) < 4:
        for shape, sizes in shapes.items():
            costs[shape].append(lane.lap(sizes, dice))
            # To some hundred messages before the count is 0.
            count = int.from_bytes(os.pread(lane.segment, 8, lane.words[0]), "little") >> 64 - COUNT_BITS
            lane.move_on((2**COUNT_BITS - dice.randrange(300) - count) % 2**COUNT_BITS)
        seen.append(lane.look())
    return lane, costs, seen


def risen(seen):
    """What is more in the last quarter of the looks, at its least, than ever in the first half; with some room."""
    # A place of the file is 1 TiB, and takes as much of it as has been written. Which of the
    # table's slots the largest messages come to use is chance; the table grows by 64. A mapping is
    # kept for each of some dozens that are used again and again.
    room = {"file": 2 * 64 << 40, "pages": 4 * MIB, "resident": 16 * MIB, "mappings": 70, "descriptors": 1}
    early, late = seen[1 : len(seen) // 2 + 1], seen[-max(len(seen) // 4, 1) :]
    least = {what: min(one[what] for one in late) for what in room}
    most = {what: max(one[what] for one in early) for what in room}
    return {what: (most[what], least[what]) for what in room if least[what] > most[what] + room[what]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--shape", choices=SHAPES)
    options = parser.parse_args()
    shapes = {options.shape: SHAPES[options.shape]} if options.shape else SHAPES
    lane, costs, seen = run(importlib.import_module("fastmp").get_context("fork"), options.seconds, shapes)
    print(f"{lane.bytes / 2**30:,.0f} GiB in {sum(map(len, costs.values())):,} bursts, each a turn of the counts")
    print(f"{'':18}{'first':>12}{'middle':>12}{'last':>12}   us a message, put and got: the quickest lap of each third")
    trouble = []
    for shape, all_of_it in costs.items():
        third = max(len(all_of_it) // 3, 1)
        parts = [all_of_it[:third], all_of_it[third : 2 * third] or all_of_it, all_of_it[-third:]]
        least = [1e6 * min(part) for part in parts]
        print(f"{shape:18}" + "".join(f"{cost:12,.2f}" for cost in least))
        if least[2] > 1.5 * least[0]:
            trouble.append(f"{shape}: {least[0]:.2f} us a message at first, {least[2]:.2f} us at last")
    for what in seen[0]:
        row = [seen[0][what], seen[len(seen) // 2][what], seen[-1][what]]
        if what in ("file", "pages", "resident"):
            row = [f"{value / MIB:,.1f} M" for value in row]
        print(f"{what:18}" + "".join(f"{value:>12}" for value in row))
    trouble += [f"{what} rose from {before:,} to {after:,}" for what, (before, after) in risen(seen).items()]
    for one in trouble:
        print("TROUBLE:", one)
    return bool(trouble)


if __name__ == "__main__":
    sys.exit(main())
