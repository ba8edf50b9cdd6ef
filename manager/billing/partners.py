"""The clouds of other providers with which this one settles."""

from collections.abc import Callable

from manager.billing.other_side import OtherSide
from watari import errors


class Partners:
    """Finds them."""

    def __init__(self, own_domain: str, other: Callable[[str], OtherSide]) -> None:
        """`other` finds any cloud's manager, and raises NotFound CLOUD_NOT_FOUND."""
        self._own_domain = own_domain
        self._other = other

    def find(self, cloud_id: str, only: str | None = None) -> OtherSide:
        """The manager of a cloud that is another provider's; of `only`'s, unless that is None.

        Raises NotFound CLOUD_NOT_FOUND, Denied NOT_ALLOWED.
        """
        other = self._other(cloud_id)
        if other.domain == self._own_domain or only not in (None, other.domain):
            raise errors.Denied(
                "NOT_ALLOWED",
                f"cloud {cloud_id} is {other.domain}'s",
                hint="a settlement is between a provider and another one's own cloud",
            )
        return other
