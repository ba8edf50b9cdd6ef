"""The call to a provider that has invited this one, over a connection that the invitation makes."""

from datetime import timedelta

from watari import errors
from watari.clock import Clock
from watari.identity.invitation import Invitation
from watari.identity.party import KeyPair
from watari.rpc import Target, call, visit
from watari.v1 import common_pb2, federation_pb2, federation_pb2_grpc

CERTIFICATE_LIFE = timedelta(minutes=10)
"""Of the certificate that is made for the visit."""


def exchange(
    invitation: Invitation,
    bundle: common_pb2.SignedDocument,
    clock: Clock,
    call_seconds_max: float,
) -> common_pb2.SignedDocument:
    """The inviting provider's bundle for the own one.

    Raises Unavailable PEER_UNAVAILABLE when it cannot be reached, or lets the invitation in no
    longer, and what it answers.
    """
    certificate = invitation.caller(clock).issue(
        invitation.invitee, CERTIFICATE_LIFE.total_seconds()
    )
    target = Target(invitation.address, invitation.invitee)
    channel = visit(target, KeyPair(*certificate), invitation.door(clock).cert_pem)
    stub = federation_pb2_grpc.FederationServiceStub(channel)
    request = federation_pb2.ExchangeBundlesRequest(bundle=bundle)
    try:
        return call(stub.ExchangeBundles, request, timeout_seconds=call_seconds_max).bundle
    except errors.Unavailable as error:
        raise errors.Unavailable(
            "PEER_UNAVAILABLE",
            f"{invitation.manager} at {invitation.address} does not let us in: {error.message}",
            hint="it may be down, or the invitation was withdrawn or used up",
            peer=invitation.manager,
            address=invitation.address,
        ) from error
    finally:
        channel.close()
