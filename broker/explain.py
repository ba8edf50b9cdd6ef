"""NO_CANDIDATE: an error that says in a few words why no cloud fits, and what would. Pure."""

from collections import defaultdict
from dataclasses import dataclass

from broker.feasible import Rejection
from broker.place import Placement
from broker.screening import RULED_OUT
from watari import errors

CLOUDS_MAX = 5
"""Clouds that the error explains: all of them travel in HTTP/2 trailers, which are small."""

CLOUD_CHARS_MAX = 180
"""Longest explanation of one cloud in the error."""


@dataclass(frozen=True)
class Nearest:
    """The offer of a cloud that misses least."""

    cloud_id: str
    misses: tuple[Rejection, ...]

    def __str__(self) -> str:
        text = f"{self.cloud_id}: {', '.join(miss.reason for miss in self.misses)}"
        return text if len(text) <= CLOUD_CHARS_MAX else f"{text[: CLOUD_CHARS_MAX - 3]}..."

    @property
    def remedy(self) -> str:
        """What would have made it fit; empty unless every miss has a remedy."""
        remedies = [miss.would_fit for miss in self.misses]
        return f"{self.cloud_id} {', '.join(remedies)}" if all(remedies) else ""


def no_candidate(vm: str, placement: Placement) -> errors.FailedPrecondition:
    """The error; its message and metadata explain the clouds that are nearest to fitting."""
    why, hint, told = _explained(placement)
    error = errors.FailedPrecondition(
        "NO_CANDIDATE", f"no cloud fits machine {vm}: {why}", hint=hint
    )
    error.metadata |= told
    return error


def nobody_answered(vm: str, placement: Placement) -> errors.Unavailable:
    """The error when a candidate did not say whether it has room; it explains the clouds as
    `no_candidate`.
    """
    why, _, told = _explained(placement)
    error = errors.Unavailable(
        "PEER_UNAVAILABLE",
        f"no cloud held room for machine {vm}, and not all could be asked: {why}",
        hint="repeat the call; if it lasts, look at that cloud's manager",
    )
    error.metadata |= told
    return error


def out_of_time(vm: str, placement: Placement) -> errors.DeadlineExceeded:
    """The error when no candidate held room in time; it explains the clouds as `no_candidate`."""
    why, _, told = _explained(placement)
    error = errors.DeadlineExceeded(
        "DEADLINE_EXCEEDED",
        f"no cloud held room for machine {vm} in time: {why}",
        hint="ask again, with a longer deadline if this one was short",
    )
    error.metadata |= told
    return error


def _explained(placement: Placement) -> tuple[str, str, dict[str, str]]:
    """Why nothing fits, what would, and both with numbers and by cloud."""
    clouds = nearest(placement)
    told = clouds[:CLOUDS_MAX]
    left = max(len(clouds), placement.rejected_clouds) - len(told)
    more = f"; {left} more clouds" if left > 0 else ""
    untried = len({candidate.fit.cloud.cloud_id for candidate in placement.candidates})
    more += f"; {untried} more candidates were not tried" if untried else ""
    why = "; ".join(map(str, told)) or "the directory lists no cloud"
    remedies = [cloud.remedy for cloud in told if cloud.remedy]
    hint = remedies[0] if remedies else "Place with these requirements lists every rejection"
    numbers = {
        "rejections": str(len(placement.rejections)),
        "directory_revision": str(placement.snapshot.revision),
    }
    one_by_one = {f"cloud.{cloud.cloud_id}": str(cloud) for cloud in told}
    return f"{why}{more}", hint, numbers | one_by_one


def nearest(placement: Placement) -> list[Nearest]:
    """Each rejected cloud by its nearest offer; the fewest misses first."""
    misses: dict[str, dict[str, list[Rejection]]] = defaultdict(lambda: defaultdict(list))
    for rejection in placement.rejections:
        misses[rejection.cloud_id][rejection.offer].append(rejection)
    found = []
    for cloud_id, by_offer in misses.items():
        cloud = placement.snapshot.clouds.get(cloud_id)
        offers = [by_offer.get(offer.name, []) for offer in cloud.offers] if cloud else []
        own = min(offers, key=len, default=[])
        found.append(Nearest(cloud_id, (*by_offer.get("", []), *own)))
    # A cloud with another offer that fits has no misses here, and is no subject.
    rejected = [one for one in found if one.misses]
    rejected.sort(key=lambda one: (_ruled_out(one), len(one.misses), one.cloud_id))
    return rejected


def _ruled_out(cloud: Nearest) -> bool:
    return any(miss.constraint in RULED_OUT for miss in cloud.misses)
