"""Calls that are worked off together: those that came while a write was being done share the next.

A write costs a fixed price, in statements and in a flush, and little more for each call in it. So
nobody gives up the processor for every single one: whoever finds nobody at work leads, does its own
call and all that wait, and hands the lead to the first of those that came meanwhile. The fewer
wait, the smaller the group; who comes alone is served at once, alone.

Never: keeps a call from being answered for what another one did. What goes wrong with a group as a
whole is done again call by call.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Generic, TypeVar

from sqlalchemy.engine import Connection

from manager.statements import Ask, Told
from watari import errors, logs

WAIT_SECONDS_MAX = 120.0
"""Nobody waits for longer for who leads: each write has bounds of its own that are tighter."""

_Asking = Callable[[], Sequence[Ask]]
_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")

_log = logs.get(__name__)


class _Call(Generic[_Asked, _Answer]):
    """One call, until its thread has its outcome."""

    def __init__(self, asked: _Asked) -> None:
        self.asked = asked
        self.outcome: _Answer | errors.WatariError | None = None
        self.leads = False
        self.next: _Call[_Asked, _Answer] | None = None
        """Whom its thread wakes when it goes on. One after another: threads that are woken all at
        once wait for the interpreter's lock, and that costs more than the answers do."""

        self.woken = threading.Lock()
        """Locked until there is an outcome, or the lead, or neither: then it is done alone."""

        self.woken.acquire()  # Cheaper than an event, and there is one for every call.


class Group(Generic[_Asked, _Answer]):
    """Does calls in writes of up to `calls_max`. From any thread.

    `write` is `Store.write_asking`. `asking` is what has to be read for calls, and `together` does
    them in one transaction, in their order, with what came of it. It returns the outcome of each:
    an answer, or the WatariError that refuses this one and has changed nothing. What it raises
    takes everything back.
    """

    def __init__(
        self,
        write: Callable[[_Asking], AbstractContextManager[tuple[Connection, Sequence[Told]]]],
        asking: Callable[[Sequence[_Asked]], Sequence[Ask]],
        together: Callable[
            [Connection, Sequence[_Asked], Sequence[Told]],
            Sequence[_Answer | errors.WatariError],
        ],
        calls_max: int,
    ) -> None:
        self._write = write
        self._asking = asking
        self._together = together
        self._calls_max = calls_max
        self._lock = threading.Lock()
        self._waiting: deque[_Call[_Asked, _Answer]] = deque()
        self._led = False

    @property
    def waiting(self) -> Sequence[_Asked]:
        """What no write has taken yet."""
        with self._lock:
            return [call.asked for call in self._waiting]

    def do(self, asked: _Asked) -> _Answer:
        """The answer to one call, once it is committed. Raises its WatariError."""
        call = _Call[_Asked, _Answer](asked)
        with self._lock:
            self._waiting.append(call)
            call.leads, self._led = not self._led, True
        try:
            if not call.leads and not call.woken.acquire(timeout=WAIT_SECONDS_MAX):
                self._leave(call)
            if call.leads:
                self._lead(call)
        finally:
            if call.next is not None:
                call.next.woken.release()
        if call.outcome is None:
            with self._write(lambda: self._asking([asked])) as (connection, told):
                (call.outcome,) = self._together(connection, [asked], told)
        if isinstance(call.outcome, errors.WatariError):
            raise call.outcome
        return call.outcome

    def _lead(self, own: _Call[_Asked, _Answer]) -> None:
        calls = [own]

        def asking() -> Sequence[Ask]:
            # Only now: until the write could begin, more have come.
            nonlocal calls
            calls = self._next()
            return self._asking([call.asked for call in calls])

        try:
            with self._write(asking) as (connection, told):
                outcomes = self._together(connection, [call.asked for call in calls], told)
            # From here on it is committed.
            for call, outcome in zip(calls, outcomes, strict=True):
                call.outcome = outcome
        except errors.Unavailable as error:
            # It may be committed or not, for all of them: whoever repeats its call finds out.
            for call in calls:
                call.outcome = errors.Unavailable(error.reason, error.message, hint=error.hint)
        except Exception as error:
            if len(calls) == 1:
                raise
            _log.warning("a group is done call by call", calls=len(calls), problem=str(error))
        finally:
            self._hand_on(own)
            for call, following in pairwise([own, *(call for call in calls if call is not own)]):
                call.next = following

    def _next(self) -> list[_Call[_Asked, _Answer]]:
        with self._lock:
            count = min(len(self._waiting), self._calls_max)
            return [self._waiting.popleft() for _ in range(count)]

    def _hand_on(self, own: _Call[_Asked, _Answer]) -> None:
        with self._lock:
            if own in self._waiting:
                self._waiting.remove(own)  # Its write could not begin.
            self._led = bool(self._waiting)
            if self._led:
                self._waiting[0].leads = True
                self._waiting[0].woken.release()

    def _leave(self, call: _Call[_Asked, _Answer]) -> None:
        """Wait no longer, unless something came this very moment."""
        with self._lock:
            if call.leads or call.outcome is not None:
                return
            if call in self._waiting:
                self._waiting.remove(call)
        raise errors.Unavailable(
            "SERVER_UNAVAILABLE", "the manager's database is busy", hint="repeat the call"
        )
