"""What `get_async`, `put_async`, `recv_async` and `send_async` do: tasks that wait for channels.

No thread, and nothing that a cancellation could lose: a message is taken, or put, in the very step
in which its task goes on. What happens outside of tasks only wakes them.

# Who waits
Each loop has an epoll of ours for reading and one for writing, among its own descriptors. Into it
go the channels' descriptors, which stay free for the program to watch, and are told of once when
asked for. It lives in the loop, and goes when the loop is closed.

In each loop the tasks that wait for one side of a channel stand in line. The first is woken, and
tries; if that comes to nothing it is the first again. Whoever leaves the line has the next one
woken, by the loop: once a message is taken, nothing else is run before its task has it.
While a line is not empty one of these is true, so that no wake-up is lost:

- the descriptor has been asked for (`armed`);
- a timer runs (`timer`), for the descriptor does not tell: another process is in the middle of something, or
  stopped there; or it tells in vain again and again;
- the first has been woken, or the loop is about to (`passing`).

Where messages come back whose taker is killed (`Queue(requeue=True)`), somebody has to notice the
death: while tasks wait for one, their line looks now and then. What comes back the descriptor tells.

`close()` of the channel wakes the first, and each the next. A forked child forgets all lines: the
tasks are its parent's, and so is what the epoll watches.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import os
import select
import weakref

from ._native import _BUSY, _NOTHING, _arm, _beside_standard, _prepare, _put_now, _take_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from ._native import Message

_IN_VAIN = 16  # attempts that are made as soon as the descriptor tells
_MOST = 0.05  # seconds between two attempts when it does not
_LOOK = 0.07  # seconds between two looks for the dead

_pollers: weakref.WeakValueDictionary[tuple[int, bool], _Poller] = weakref.WeakValueDictionary()
_tokens = itertools.count()


def _epoll() -> select.epoll:
    epoll = select.epoll()
    if epoll.fileno() > 2:
        return epoll
    with epoll:  # of a standard stream that has been closed
        return select.epoll.fromfd(_beside_standard(os.dup(epoll.fileno())))


class _Poller:
    """What tells one loop that channels are readable, or writable."""

    def __init__(self, loop: asyncio.AbstractEventLoop, writing: bool) -> None:
        self.loop = weakref.ref(loop)
        self.writing = writing
        self.epoll = _epoll()
        self.lines: dict[int, _Line] = {}  # by the channel's identity
        self.told: dict[int, _Line] = {}  # by the token
        try:
            # The loop keeps what it calls, and so this; nothing else does.
            loop.add_reader(self.epoll.fileno(), self.look)
        except (AttributeError, NotImplementedError):
            self.epoll.close()
            raise NotImplementedError(
                f"fastmp's channels need an event loop with add_reader(), which {type(loop).__name__} does not have"
            ) from None

    def look(self) -> None:
        # What is more is told of at the loop's next turn. Tokens of lines that are gone may be
        # among them.
        for token, _ in self.epoll.poll(0, 64):
            line = self.told.get(token)
            if line is not None:
                line.armed = False
                line.wake()


class _Line:
    """Those who wait for one side of a channel, in one loop."""

    __slots__ = ("armed", "channel", "loop", "looking", "passing", "poller", "timer", "token", "waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: _Poller, channel: Any) -> None:
        self.loop = loop
        self.poller = poller
        self.channel = channel
        self.token = next(_tokens) & 0x7FFFFFFF
        self.waiters: collections.deque[asyncio.Future[None]] = collections.deque()
        self.armed = False
        self.timer: asyncio.TimerHandle | None = None
        self.looking: asyncio.TimerHandle | None = None
        self.passing: asyncio.Handle | None = None

    def enter(self, delay: float | None) -> asyncio.Future[None]:
        """A place at the end. The first is woken by the descriptor, or after `delay` seconds."""
        waiter = self.loop.create_future()
        if not self.waiters:
            self._begin(delay)
        self.waiters.append(waiter)
        return waiter

    def enter_again(self, delay: float | None) -> asyncio.Future[None]:
        """A place at the front, for one who has left and found nothing: nor will the next."""
        waiter = self.loop.create_future()
        if self.passing is not None:
            self.passing.cancel()
            self.passing = None
        self._begin(delay)
        self.waiters.appendleft(waiter)
        return waiter

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Gives a place up; whoever is first now tries next."""
        if self.waiters[0] is waiter:
            self.waiters.popleft()
            if self.waiters and self.passing is None and not self.loop.is_closed():
                self.passing = self.loop.call_soon(self._pass)
        else:
            self.waiters.remove(waiter)
        if not self.waiters:
            self._end()

    def wake(self) -> None:
        """Has the first try."""
        if self.waiters and not self.waiters[0].done():
            self.waiters[0].set_result(None)

    def _begin(self, delay: float | None) -> None:
        self.poller.lines[id(self.channel)] = self.poller.told[self.token] = self
        if delay is None:
            self._arm()
        elif self.timer is None:
            self.timer = self.loop.call_later(delay, self._look)
        if self.looking is None and not self.poller.writing and getattr(self.channel, "_requeue", False):
            self.looking = self.loop.call_later(_LOOK, self._look_for_the_dead)

    def _end(self) -> None:
        # What has been asked for is told once, with a token that nobody knows.
        del self.poller.lines[id(self.channel)], self.poller.told[self.token]
        self.armed = False
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.looking is not None:
            self.looking.cancel()
            self.looking = None

    def _arm(self) -> None:
        if not self.armed:
            try:
                _arm(self.channel, self.poller.epoll.fileno(), self.token, self.poller.writing)
            except BaseException:
                if not self.waiters:
                    self._end()
                raise
            self.armed = True

    def _look(self) -> None:
        self.timer = None
        self.wake()

    def _look_for_the_dead(self) -> None:
        self.channel._look_after()
        self.looking = self.loop.call_later(_LOOK, self._look_for_the_dead)

    def _pass(self) -> None:
        self.passing = None
        self.wake()


def _poller(loop: asyncio.AbstractEventLoop, writing: bool) -> _Poller | None:
    poller = _pollers.get((id(loop), writing))
    # Another loop may have been where this is now.
    return poller if poller is not None and poller.loop() is loop else None


async def _take_turns(channel: Any, writing: bool, operator: Any, subject: Any) -> Any:
    """The answer of `operator[subject, told]` once it is neither of those that mean to wait."""
    loop = asyncio.get_running_loop()
    poller = _poller(loop, writing)
    line = None if poller is None else poller.lines.get(id(channel))
    answer = _NOTHING
    if line is None:
        answer = operator[subject, False]
        if answer is not _NOTHING and answer is not _BUSY:
            return answer
        if poller is None:
            poller = _pollers[id(loop), writing] = _Poller(loop, writing)
        line = _Line(loop, poller, channel)
    waiter = line.enter(0 if answer is _BUSY else None)
    vain = busy = 0
    while True:
        try:
            await waiter
        finally:
            line.leave(waiter)
        # Nothing may stand between the answer and the return: see the module.
        answer = operator[subject, True]
        if answer is not _NOTHING and answer is not _BUSY:
            return answer
        if answer is _BUSY:
            # For less than a microsecond, as a rule.
            delay = min((2**busy - 1) / 1000, _MOST)
            busy = min(busy + 1, 10)
        else:
            delay = (vain - _IN_VAIN) / 1000 if vain > _IN_VAIN else None
            vain, busy = min(vain + 1, _IN_VAIN + 20), 0
        waiter = line.enter_again(delay)


def take(channel: Any) -> Coroutine[Any, Any, Any]:
    """What a queue's `get_async` and a connection's `recv_async` are."""
    return _take_turns(channel, False, _take_now, channel)


def put(channel: Any, obj: Any) -> Coroutine[Any, Any, None]:
    """What a queue's `put_async` and a connection's `send_async` are: serialises at once."""
    message: Message = _prepare(channel, obj)
    return _take_turns(channel, True, _put_now, message)


def _closed(channel: Any) -> None:
    """Those who wait for a channel that has been closed find out. Called by `close()`, in any thread."""
    for reference in _pollers.valuerefs():
        poller = reference()
        loop = None if poller is None else poller.loop()
        line = None if poller is None else poller.lines.get(id(channel))
        if loop is not None and line is not None and not loop.is_closed():
            loop.call_soon_threadsafe(line.wake)


def _forget() -> None:
    """In a forked child."""
    for reference in _pollers.valuerefs():
        poller = reference()
        if poller is not None:
            poller.epoll.close()
    _pollers.clear()


os.register_at_fork(after_in_child=_forget)
