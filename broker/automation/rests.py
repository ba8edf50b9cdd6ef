"""Clouds that refused a policy's delegation are left alone for a while.

Each refusal is an entry in that cloud's audit log, and asking again at once hears the same. One
that revoked it is not asked again under it: nothing makes it good any more.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.automation.policy_rows import Held, Position
from watari import errors
from watari.clock import Clock

REVOKED = "DELEGATION_REVOKED"
"""The reason with which a cloud refuses what was revoked there."""

Key = tuple[Position, int, str]
"""A policy, its generation, and a cloud: a policy that was put again is asked for at once."""


@dataclass
class Rests:
    """What was refused, and until when it is not asked again. For one thread."""

    clock: Clock
    seconds: float
    _refusals: dict[Key, tuple[float, errors.Denied]] = field(default_factory=dict)

    def require_none(self, held: Held, cloud_id: str) -> None:
        """Raises the Denied that the cloud said, while it rests."""
        now = self.clock.monotonic()
        until, error = self._refusals.get(_key(held, cloud_id), (now, None))
        if error is not None and now < until:
            raise error

    def note(self, held: Held, cloud_id: str, error: errors.Denied) -> None:
        """The cloud has refused the policy's delegation."""
        now = self.clock.monotonic()
        self._refusals = {k: each for k, each in self._refusals.items() if now < each[0]}
        seconds = math.inf if error.reason == REVOKED else self.seconds
        self._refusals[_key(held, cloud_id)] = (now + seconds, error)

    def revoked(self, held: Held) -> dict[str, str]:
        """Clouds in which the policy's delegation is known to be revoked, and what they said."""
        return {
            cloud_id: error.message
            for (position, generation, cloud_id), (_, error) in self._refusals.items()
            if (position, generation) == (held.key, held.generation) and error.reason == REVOKED
        }

    def forget(self, keep: Iterable[Held]) -> None:
        """Forget what was said to other policies than those, as they are now."""
        present = {(held.key, held.generation) for held in keep}
        self._refusals = {k: each for k, each in self._refusals.items() if k[:2] in present}


def _key(held: Held, cloud_id: str) -> Key:
    return held.key, held.generation, cloud_id
