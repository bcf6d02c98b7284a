"""Shared bytes are untrusted: what is garbage there is an exception in Python, and never a crash.

The core has a fuzz target of its own, `make fuzz`. FASTMP_TEST_FUZZ seconds each, FASTMP_SEED to begin with.
"""

import os
import random

import fastmp
import pytest
from children import hostile

pytestmark = [pytest.mark.fastmp_only("it is about fastmp's own shared memory"), pytest.mark.method("fork")]
SECONDS = float(os.environ.get("FASTMP_TEST_FUZZ", "2"))


@pytest.fixture
def seed():
    seed = int(os.environ.get("FASTMP_SEED", random.randrange(2**32)))
    print(f"FASTMP_SEED={seed}")
    return seed


@pytest.mark.timeout(60 + 2 * SECONDS, method="signal")
def test_messages_of_garbage(mp, crew, seed):
    crew.run(hostile.receive_garbage, mp, seed, SECONDS)


@pytest.mark.timeout(60 + 2 * SECONDS, method="signal")
def test_segments_of_garbage(mp, crew, seed):
    crew.run(hostile.use_mutated, mp, seed, SECONDS)


def test_more_buffers_than_a_message_can_have(mp):
    """Each would be an object of some 60 bytes, of eight bytes of zeros."""
    forger = hostile.Forger(mp)
    count = 1_000
    forger.send(hostile.OUT_OF_BAND, count.to_bytes(8, "little") + bytes(8 * count + 100))
    with pytest.raises(fastmp.CorruptedError):
        forger.right.recv()
    forger.left.send("whole")
    assert forger.right.recv() == "whole"
