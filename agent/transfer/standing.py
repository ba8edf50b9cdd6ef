"""Whether a peer that proved itself once may still go on."""

import datetime

from watari import errors
from watari.identity import SpiffeId, TrustStore

CHECK_SECONDS = 1.0
"""How often it is asked of everything that is under way: a provider that was removed, or an agent
that was denied, sends and takes nothing more after that. It costs a look at the trust folder.
"""


def lost(
    trust: TrustStore, peer: SpiffeId, since: datetime.datetime
) -> errors.Unauthenticated | None:
    """Why a peer that proved itself at `since` may not go on; None while it may."""
    if not trust.refuses(peer, since):
        return None
    if peer.domain in trust.domains():
        return errors.Unauthenticated(
            "CERTIFICATE_DENIED",
            f"{peer} was denied while its transfer ran",
            hint="its provider's operator issues a new certificate; start the migration again then",
            peer=peer,
        )
    return errors.Unauthenticated(
        "PROVIDER_UNKNOWN",
        f"provider {peer.domain} was removed from this federation while a transfer with it ran",
        hint="nothing of it became a machine; accept the provider again, then start again",
        domain=peer.domain,
    )
