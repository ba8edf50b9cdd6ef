"""Other providers' bundles: read from what was signed, and checked. Functions of values."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from cryptography import x509
from google.protobuf.message import DecodeError

from manager.federation.own import fingerprint
from manager.federation.rows import ProviderRow, State
from watari import bundles, errors, identity, validate
from watari.identity import Role, SpiffeId, leaves
from watari.identity.documents import Believes
from watari.v1 import common_pb2, federation_pb2

CLOUDS_MAX = 16
NAME_BYTES_MAX = 128


def introduced(
    document: common_pb2.SignedDocument, own_domain: str, now: datetime
) -> federation_pb2.Bundle:
    """The bundle of a provider that is not accepted: whoever signed it has a certificate of the
    authorities that it names. That they are the right ones, people have to confirm.

    Raises InvalidArgument INVALID_FIELD, Unauthenticated SIGNATURE_INVALID, PEER_UNAUTHENTICATED.
    """
    bundle = _parse(document)
    if bundle.domain == own_domain:
        raise bundles.invalid("names this very provider")
    roots = [x509.load_der_x509_certificate(der) for der in bundle.authorities]
    return _signed(document, bundle, leaves.FixedRoots(bundle.domain, roots), now)


def renewed(
    document: common_pb2.SignedDocument, caller: SpiffeId, trust: Believes, now: datetime
) -> federation_pb2.Bundle:
    """The newer bundle of an accepted provider, brought by its manager. Raises as `introduced`."""
    bundle = _parse(document)
    if bundle.domain != caller.domain:
        raise bundles.invalid(f"is {bundle.domain}'s, brought by {caller}")
    return _signed(document, bundle, trust, now)


def require_fingerprint(bundle: federation_pb2.Bundle, ca_sha256: bytes) -> None:
    """Raises InvalidArgument INVITATION_INVALID unless it is that of the bundle's authorities."""
    shown = fingerprint(bundle)
    if shown != ca_sha256:
        raise errors.InvalidArgument(
            "INVITATION_INVALID",
            f"{bundle.domain} shows another authority than the one that was announced",
            hint="stop, and talk to its operator: somebody may stand between",
            announced=ca_sha256.hex(),
            shown=shown.hex(),
        )


def require_clouds_free(
    bundle: federation_pb2.Bundle,
    own_cloud: str,
    others: Iterable[ProviderRow],
    elsewhere: Mapping[str, str],
) -> None:
    """Raises FailedPrecondition PROVIDER_STATE when it claims a cloud that is another's.

    `elsewhere` has the managers (SPIFFE ids) of clouds that settings or directory know.
    """
    domains = {cloud_id: SpiffeId.parse(party).domain for cloud_id, party in elsewhere.items()}
    taken = {cloud_id: domain for cloud_id, domain in domains.items() if domain != bundle.domain}
    taken[own_cloud] = "this provider"
    for row in others:
        if row.state is State.ACCEPTED and row.domain != bundle.domain:
            taken |= dict.fromkeys(row.bundle.cloud_ids, row.domain)
    for cloud_id in bundle.cloud_ids:
        if cloud_id in taken:
            raise errors.FailedPrecondition(
                "PROVIDER_STATE",
                f"{bundle.domain} calls a cloud {cloud_id}, which is {taken[cloud_id]}'s",
                hint="one of the two has to take another cloud_id",
                cloud_id=cloud_id,
            )


def _parse(document: common_pb2.SignedDocument) -> federation_pb2.Bundle:
    try:
        bundle = federation_pb2.Bundle.FromString(document.payload)
    except DecodeError:
        raise bundles.invalid("cannot be read") from None
    bundles.check(bundle)
    if SpiffeId.parse(bundle.manager.spiffe_id).role is not Role.MANAGER:
        raise bundles.invalid("names no manager")
    validate.require_address(bundle.manager.address, "bundle.manager.address")
    validate.require_count(len(bundle.cloud_ids), "bundle.cloud_ids", CLOUDS_MAX)
    for cloud_id in bundle.cloud_ids:
        validate.require_cloud_id(cloud_id, "bundle.cloud_ids")
    validate.require_text(bundle.display_name, "bundle.display_name", bytes_max=NAME_BYTES_MAX)
    return bundle


def _signed(
    document: common_pb2.SignedDocument,
    bundle: federation_pb2.Bundle,
    trust: Believes,
    now: datetime,
) -> federation_pb2.Bundle:
    manager = SpiffeId.parse(bundle.manager.spiffe_id)
    if manager.domain != bundle.domain:
        raise bundles.invalid("names another provider's manager")
    identity.verify(trust, document, bundles.PURPOSE, manager, now=now)
    return bundle
