"""What a queue says of itself. Imported by whoever asks: dataclasses are not cheap to import."""

from __future__ import annotations

import dataclasses

__all__ = ["QueueStats"]


@dataclasses.dataclass(frozen=True)
class QueueStats:
    """What has gone through a queue since it was made, in all processes together, and how it is now.

    A message counts from the instant at which it is there to be got. Bytes are those of messages as
    they are in shared memory, large buffers included. What `shutdown(immediate=True)` throws away
    counts as gone out. What comes back to a queue with requeue=True has been got, and is there again:
    it counts in `depth`, and is not counted as put or got a second time.

    Attributes:
        depth: messages there now.
        high_water: the most messages that were there at a time, or up to a sixteenth less. (Exact up to
            16, and where it is `maxsize`.)
        messages_in: messages that have been put.
        messages_out: messages that have been got.
        bytes_in: bytes that have been put.
        bytes_out: bytes that have been got.
        get_waits: how often a call had to sleep until there was a message.
        put_waits: how often a call had to sleep until there was room.
    """

    depth: int
    high_water: int
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    get_waits: int
    put_waits: int
