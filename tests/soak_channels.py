"""Producers and consumers of every kind of channel die at random: nothing hangs, is torn, comes twice or is lost.

    python soak_channels.py [--seconds S] [--seed N] [--method fork|spawn] [--pace S] [--only KIND]

Messages of mixed sizes, up to 8 MiB. A producer notes each put that has returned, right after, in shared memory; a
consumer each message that has come whole. So at the end of a *round* it is known what may be missing: of each killed
consumer the one message that it had in its hands. Between rounds nobody is there, and what is still held of memory and
descriptors is looked at. Prints one line a round; exit status 1 says that something did not hold.

A further kind of traffic is a class that derives from `Kind`, in `KINDS`: how it puts and gets, and how much one death
may cost.
"""

import argparse
import faulthandler
import importlib
import itertools
import os
import pickle
import random
import signal
import struct
import sys
import time
from queue import Empty

from children import usage

PRODUCERS, CONSUMERS = 2, 2  # of each kind
SLOTS, MOST = 512, 4096  # producers, one after the other, of a kind in a round; messages of each
LARGEST = 8 << 20
HANG = 30.0  # seconds without a step, on a machine that other programs may load
ROUND = 15.0
AHEAD = 100  # unread messages of an unbounded queue at which its producers wait a moment
LEFT = 12 << 20  # bytes of shared memory that a channel may keep at rest
HEADER = struct.Struct("<IIQ")
NOISE = random.Random(1).randbytes(LARGEST + 4096)


def message(producer, number, size):
    """Says whose it is, and every byte follows from that."""
    start = (producer * 977 + number * 131) % 4096
    return HEADER.pack(producer, number, size) + NOISE[start : start + size]


def some_size(dice):
    """Mostly small; as many of the others as the machine can copy in the same time."""
    chance = dice.random()
    if chance < 0.6:
        return dice.randrange(1000)
    if chance < 0.85:
        return dice.randrange(70_000)
    return dice.randrange(1 << 20) if chance < 0.98 else dice.randrange(LARGEST)


class Lent:
    """Its bytes stay where they arrive, if they are many."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        data = bytearray(self.data)
        return Lent, (pickle.PickleBuffer(memoryview(data)) if protocol >= 5 else data,)


def some_object(dice, data):
    """The same message as different objects: in the stream, out of band, among others."""
    kinds = [lambda: data, lambda: bytearray(data), lambda: ("row", data, 1.5), lambda: {"data": data}]
    return dice.choice([*kinds, lambda: Lent(data)])()


class Kept:
    """What a consumer was lent, and holds for a while. Nobody else changes it, but it may itself."""

    def __init__(self):
        self.held = []

    def add(self, item, content):
        """Are all that it gives up still what they were?"""
        if isinstance(item, Lent):
            self.held.append((item.data, content))
        return len(self.held) < 6 or self.drop(content[0] % 6)

    def drop(self, at):
        data, content = self.held.pop(at)
        whole = data == content
        data[:] = bytes(len(data))
        return whole


def data_in(item):
    if isinstance(item, Lent):
        return bytes(item.data)
    data = item[1] if isinstance(item, tuple) else item["data"] if isinstance(item, dict) else item
    return data if isinstance(data, (bytes, bytearray)) else bytes(data)


class Kind:
    """One kind of traffic, over a queue."""

    most = 1  # messages in one put
    lost_with_a_consumer = 1  # messages: of a batch, as many as there are in one
    once = True  # each message comes to one consumer, and not to each that is there
    comes_back = False  # what a killed consumer had in its hands
    bound = 0

    def __init__(self, mp):
        self.queue = mp.Queue(self.bound)

    def join(self):
        """A consumer begins, in its process."""

    def put(self, make, dice):
        """Puts what `make` makes next; gives how many messages that were."""
        if not self.bound:
            while self.queue.qsize() > AHEAD:
                time.sleep(0.001)
        self.queue.put(make())
        return 1

    def get(self, dice):
        """The next messages; none if there are none for a while."""
        try:
            return [self.queue.get(timeout=dice.choice([None, 0.05, 0.05]))]
        except Empty:
            return []

    def end(self):
        """Tells one consumer that nothing more comes."""
        self.queue.put(None)

    def is_empty(self):
        return self.queue.empty()

    def rest(self):
        """Somebody waits, and nothing comes."""
        try:
            self.queue.get(timeout=0.5)
        except Empty:
            return True
        return False


class Unbounded(Kind):
    pass


class Bounded(Kind):
    bound = 8


class Batched(Kind):
    """A batch in a dying consumer's hands counts as one message."""

    most = lost_with_a_consumer = 9

    def put(self, make, dice):
        while self.queue.qsize() > AHEAD:
            time.sleep(0.001)
        batch = [make() for _ in range(dice.randrange(1, self.most + 1))]
        self.queue.put_many(batch)
        return len(batch)

    def get(self, dice):
        try:
            batch = self.queue.get_many(dice.randrange(1, self.most + 1), timeout=0.05)
        except Empty:
            return []
        for _ in range(batch.count(None) - 1):
            self.end()  # that was another's
        return batch


class Pipe(Kind):
    """Both ends are shared."""

    def __init__(self, mp):
        self.reader, self.writer = mp.Pipe(False)

    def put(self, make, dice):
        self.writer.send(make())
        return 1

    def get(self, dice):
        return [self.reader.recv()]

    def end(self):
        self.writer.send(None)

    def is_empty(self):
        return not self.reader.poll()

    def rest(self):
        return not self.reader.poll(0.5)


class Requeued(Batched):
    """At least once."""

    lost_with_a_consumer = 0
    comes_back = True

    def __init__(self, mp):
        self.queue = mp.Queue(requeue=True)

    def put(self, make, dice):
        return (Batched if dice.random() < 0.5 else Kind).put(self, make, dice)

    def get(self, dice):
        return (Batched if dice.random() < 0.5 else Kind).get(self, dice)

    def end(self):
        # All that comes back is there first.
        self.queue._look_after(True)
        super().end()


class Broadcasted(Kind):
    """Each consumer gets all that is sent while it is there, without a gap."""

    once = False

    def __init__(self, mp):
        self.broadcast, self.reader = mp.Broadcast(8), None

    def join(self):
        self.reader = self.broadcast.reader()

    def put(self, make, dice):
        while not self.broadcast.readers():
            time.sleep(0.001)
        self.broadcast.send(make())
        return 1

    def get(self, dice):
        try:
            return [self.reader.recv(dice.choice([None, 0.05, 0.05]))]
        except Empty:
            return []

    def end(self):
        self.broadcast.send(None)

    def is_empty(self):
        return self.broadcast.readers() == []

    def rest(self):
        with self.broadcast.reader() as reader:
            try:
                reader.recv(0.5)
            except Empty:
                return True
        return False


KINDS = [Unbounded, Bounded, Batched, Pipe, Requeued, Broadcasted]


class World:
    """What all share of one kind: the channel, and words for the bookkeeping."""

    def __init__(self, mp, kind):
        self.kind = kind(mp)
        self.returned = mp.RawArray("q", SLOTS)  # puts, by producer
        self.came = mp.RawArray("B", SLOTS * MOST)  # how often each message did
        self.steps = mp.RawArray("q", PRODUCERS + CONSUMERS)
        self.violations, self.stop = mp.RawArray("q", PRODUCERS + CONSUMERS), mp.RawValue("b")

    def expect(self, at, holds, what):
        if not holds:
            print(f"violation in {os.getpid()}: {type(self.kind).__name__}: {what}", file=sys.stderr, flush=True)
            self.violations[at] += 1


def produce(world, at, slot, seed):
    faulthandler.register(signal.SIGUSR1)
    dice = random.Random(seed)
    numbers = itertools.count()
    done = 0
    while done < MOST - 256 and not world.stop.value:
        done += world.kind.put(lambda: some_object(dice, message(slot, next(numbers), some_size(dice))), dice)
        world.returned[slot] = done
        world.steps[at] += 1


def consume(world, at, slot, seed):
    faulthandler.register(signal.SIGUSR1)
    dice = random.Random(seed)
    last, kept = {}, Kept()
    world.kind.join()
    while True:
        for item in world.kind.get(dice):
            if item is None:
                return
            data = data_in(item)
            producer, number, size = HEADER.unpack_from(data)
            world.expect(at, data == message(producer, number, size), f"message {number} of {producer} is torn")
            before = last.get(producer, -1 if world.kind.once else number - 1)
            in_order = before < number if world.kind.once else before + 1 == number
            in_order = in_order or world.kind.comes_back
            world.expect(at, in_order, f"{number} of {producer} after {last.get(producer)}")
            world.expect(at, kept.add(item, data), "what was lent has changed")
            last[producer] = number
            world.came[producer * MOST + number] += 1
        world.steps[at] += 1


class Controller:
    def __init__(self, mp, kinds, seed, pace):
        self.mp, self.random, self.pace = mp, random.Random(seed), pace
        self.worlds = [World(mp, kind) for kind in kinds]
        self.trouble, self.rounds, self.first = [], 0, None
        self.kills = self.messages = self.missing = 0

    def start(self, world, at):
        slot = None
        if at < PRODUCERS:
            slot, self.slots[world] = self.slots[world], self.slots[world] + 1
        target = produce if at < PRODUCERS else consume
        worker = self.mp.Process(target=target, args=(world, at, slot, self.random.random()), daemon=True)
        worker.start()
        self.workers[world, at] = worker
        self.seen[world, at] = (world.steps[at], time.monotonic())

    def round(self, seconds):
        self.workers, self.seen = {}, {}
        self.slots, self.killed = dict.fromkeys(self.worlds, 0), dict.fromkeys(self.worlds, 0)
        for world in self.worlds:
            world.stop.value = 0
            world.returned[:] = [0] * SLOTS
            memoryview(world.came).cast("B")[:] = bytes(SLOTS * MOST)
            for at in range(PRODUCERS + CONSUMERS):
                self.start(world, at)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.trouble and max(self.slots.values()) < SLOTS - 4:
            time.sleep(self.random.expovariate(1 / self.pace))
            world, at = self.random.choice(list(self.workers))
            self.kill(world, at)
            self.look_for_hangs()
        self.end_round()

    def kill(self, world, at):
        victim = self.workers[world, at]
        if self.random.random() < 0.2:
            os.kill(victim.pid, signal.SIGSTOP)
            time.sleep(self.random.random() * 0.02)
        victim.kill()
        victim.join()
        if victim.exitcode == -signal.SIGKILL:
            self.kills += 1
            self.killed[world] += at >= PRODUCERS
        self.start(world, at)

    def look_for_hangs(self):
        now = time.monotonic()
        for (world, at), worker in list(self.workers.items()):
            if worker.exitcode is not None:
                if worker.exitcode != 0:
                    self.trouble.append(f"{self.name(world, at)} ended with {worker.exitcode}")
                self.start(world, at)
            elif world.steps[at] != self.seen[world, at][0]:
                self.seen[world, at] = (world.steps[at], now)
            elif now - self.seen[world, at][1] > HANG:
                self.hangs(world, at)
        if any(sum(world.violations) for world in self.worlds):
            self.trouble.append("violations")

    def name(self, world, at):
        return f"{type(world.kind).__name__}'s {'producer' if at < PRODUCERS else 'consumer'} {at}"

    def hangs(self, world, at):
        self.trouble.append(f"{self.name(world, at)} hangs")
        os.kill(self.workers[world, at].pid, signal.SIGUSR1)
        time.sleep(1)

    def join(self, world, places):
        for at in places:
            worker = self.workers[world, at]
            worker.join(HANG)
            if worker.exitcode is None:
                self.hangs(world, at)
            elif worker.exitcode != 0:
                self.trouble.append(f"{self.name(world, at)} ended with {worker.exitcode}")

    def end_round(self):
        """Producers first, so that all that they have put can be waited for; then consumers."""
        for world in self.worlds:
            world.stop.value = 1
        for world in self.worlds:
            self.join(world, range(PRODUCERS))
        for world in self.worlds:
            if not self.trouble:
                for _ in range(CONSUMERS):
                    world.kind.end()
                self.join(world, range(PRODUCERS, PRODUCERS + CONSUMERS))
        for worker in self.workers.values():
            worker.kill()
            worker.join()
        if not self.trouble:
            for world in self.worlds:
                self.settle(world)
            self.look_at_what_is_left()

    def settle(self, world):
        """Which messages came, and which are missing."""
        name, came = type(world.kind).__name__, memoryview(world.came).cast("B")
        lost = 0
        for slot, returned in enumerate(world.returned):
            counts = bytes(came[slot * MOST : (slot + 1) * MOST])
            lost += counts[:returned].count(0)
            # The put that a death has cut short may have been done. (A batch is one put.)
            beyond = len(counts[returned:].rstrip(b"\0"))
            if beyond > world.kind.most:
                self.trouble.append(
                    f"{name}: {beyond} messages of {slot} beyond {returned}, which its puts have returned"
                )
            if max(counts) > 1 and world.kind.once and not world.kind.comes_back:
                self.trouble.append(f"{name}: messages of {slot} came twice")
            self.messages += returned
        self.missing += lost if world.kind.once else 0
        if world.kind.once and lost > self.killed[world] * world.kind.lost_with_a_consumer:
            self.trouble.append(f"{name}: {lost} messages are lost, with {self.killed[world]} consumers")
        if not world.kind.is_empty():
            self.trouble.append(f"{name}: something is left")

    def look_at_what_is_left(self):
        time.sleep(1.2)
        if not all(world.kind.rest() for world in self.worlds):
            self.trouble.append("something came although nobody was there")
        held = usage.look()
        own = sum(SLOTS * (MOST + 8) for _ in self.worlds) + (4 << 20)
        self.rounds += 1
        print(f"round {self.rounds}: {self.kills:,} kills, {self.messages:,} messages; {held}", flush=True)
        if held["shared bytes"] > own + LEFT * len(self.worlds):
            self.trouble.append(f"{held['shared bytes'] >> 20} MiB are left")
        self.first = self.first or held
        # Some descriptors tell of children that may still be there, and are looked through now and
        # then.
        if held["descriptors"] > self.first["descriptors"] + 24 or held["mappings"] > self.first["mappings"] + 64:
            self.trouble.append(f"descriptors or mappings rise: {self.first}, {held}")
        if held["resident bytes"] > self.first["resident bytes"] + (64 << 20):
            self.trouble.append(f"memory rises: {self.first}, {held}")

    def report(self):
        print(f"{self.rounds} rounds, {self.kills:,} kills, {self.messages:,} messages put")
        print(f"{self.missing:,} messages died in a consumer's hands")
        for trouble in self.trouble:
            print("TROUBLE:", trouble)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--method", choices=["fork", "spawn"], default="fork")
    parser.add_argument("--pace", type=float, default=0.03, help="seconds between kills, on average")
    parser.add_argument("--only", help="the kind of this name")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if options.only in (None, kind.__name__)]
    print(
        f"seed {options.seed}, {options.method}, {options.seconds:g} s, {', '.join(k.__name__ for k in kinds)}",
        flush=True,
    )
    mp = importlib.import_module("fastmp").get_context(options.method)
    controller = Controller(mp, kinds, options.seed, options.pace)
    end = time.monotonic() + options.seconds
    try:
        while not controller.trouble and (left := end - time.monotonic()) > 0:
            controller.round(min(ROUND, max(left, 1.0)))
    finally:
        for worker in getattr(controller, "workers", {}).values():
            worker.kill()
        controller.report()
    return bool(controller.trouble)


if __name__ == "__main__":
    sys.exit(main())
