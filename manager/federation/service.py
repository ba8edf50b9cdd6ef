"""The gRPC faces of identity and federation: check a request, call the domain, return."""

from collections.abc import Callable
from dataclasses import dataclass

import grpc

from manager.federation.authorities import Authorities
from manager.federation.own import OwnBundle, fingerprint
from manager.federation.parting import Parting
from manager.federation.providers import Providers
from manager.federation.rows import ProviderRow
from manager.federation.trusting import Trusting
from watari import bundles, paging, rpc, validate
from watari.identity import SpiffeId
from watari.identity.invitation import FINGERPRINT_BYTES, TEXT_CHARS_MAX
from watari.v1 import federation_pb2, federation_pb2_grpc

TTL_SECONDS = (60, 604_800)


@dataclass(frozen=True)
class Federation:
    """What the services call."""

    authorities: Authorities
    trusting: Trusting
    providers: Providers
    bundle: OwnBundle
    parting: Parting
    renew_own: Callable[[], None]
    """Gives this manager itself another certificate."""
    own: SpiffeId


class IdentityServicer(federation_pb2_grpc.IdentityServiceServicer):
    """IdentityService. The contract is in the proto."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    def RenewCertificate(
        self, request: federation_pb2.RenewCertificateRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.RenewCertificateResponse:
        certificate = self._federation.authorities.issue(
            request.certificate_request, rpc.current_peer()
        )
        return federation_pb2.RenewCertificateResponse(certificate=certificate)

    def GetTrust(
        self, request: federation_pb2.GetTrustRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.GetTrustResponse:
        return self._federation.trusting.get(request.version)

    def RevokeParty(
        self, request: federation_pb2.RevokePartyRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.RevokePartyResponse:
        reason = validate.require_text(request.reason, "reason", bytes_max=bundles.REASON_BYTES_MAX)
        party = SpiffeId.parse(request.spiffe_id)
        denial = self._federation.authorities.revoke(party, reason, rpc.current_peer())
        if party == self._federation.own:
            self._federation.renew_own()
        message = federation_pb2.Denial(spiffe_id=str(party), reason=denial.reason)
        message.issued_until.FromDatetime(denial.issued_until)
        return federation_pb2.RevokePartyResponse(denial=message)

    def RotateAuthority(
        self, _request: federation_pb2.RotateAuthorityRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.RotateAuthorityResponse:
        rotation = self._federation.authorities.rotate(rpc.current_peer())
        response = federation_pb2.RotateAuthorityResponse(
            ca_sha256=rotation.ca_sha256,
            waiting_for=rotation.waiting_for,
            issuing=rotation.issuing,
        )
        if rotation.old_until is not None:
            response.old_until.FromDatetime(rotation.old_until)
        return response


class FederationServicer(federation_pb2_grpc.FederationServiceServicer):
    """FederationService. The contract is in the proto."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    def CreateInvitation(
        self, request: federation_pb2.CreateInvitationRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.CreateInvitationResponse:
        if request.ttl_seconds:
            validate.require_range(request.ttl_seconds, "ttl_seconds", *TTL_SECONDS)
        invitation = self._federation.providers.invite(request.ttl_seconds, rpc.current_peer())
        response = federation_pb2.CreateInvitationResponse(
            invitation=str(invitation),
            invitation_id=invitation.invitee.name,
            ca_sha256=invitation.ca_sha256,
        )
        response.expires_at.FromDatetime(invitation.expires_at)
        return response

    def AcceptInvitation(
        self, request: federation_pb2.AcceptInvitationRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.AcceptInvitationResponse:
        text = validate.require_text(request.invitation, "invitation", bytes_max=TEXT_CHARS_MAX)
        row = self._federation.providers.accept_invitation(text, rpc.current_peer())
        return federation_pb2.AcceptInvitationResponse(
            provider=self._message(row),
            own_ca_sha256=fingerprint(self._federation.bundle.current()),
        )

    def ConfirmProvider(
        self, request: federation_pb2.ConfirmProviderRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.ConfirmProviderResponse:
        validate.require_range(
            len(request.ca_sha256), "ca_sha256", FINGERPRINT_BYTES, FINGERPRINT_BYTES
        )
        row = self._federation.providers.confirm(
            request.domain, request.ca_sha256, rpc.current_peer()
        )
        return federation_pb2.ConfirmProviderResponse(provider=self._message(row))

    def ListProviders(
        self, request: federation_pb2.ListProvidersRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.ListProvidersResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        (after,) = paging.decode(query, request.page_token, (str,)) or ("",)
        found = self._federation.providers.page(str(after), size + 1)
        more = len(found) > size
        return federation_pb2.ListProvidersResponse(
            providers=[self._message(row) for row in found[:size]],
            next_page_token=paging.encode(query, (found[size - 1].domain,)) if more else "",
        )

    def GetProvider(
        self, request: federation_pb2.GetProviderRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.GetProviderResponse:
        row = self._federation.providers.get(request.domain)
        return federation_pb2.GetProviderResponse(provider=self._message(row))

    def RemoveProvider(
        self, request: federation_pb2.RemoveProviderRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.RemoveProviderResponse:
        row = self._federation.providers.remove(request.domain, rpc.current_peer())
        committed = self._federation.parting.part(request.domain)
        return federation_pb2.RemoveProviderResponse(
            provider=self._message(row), migrations_committed=committed
        )

    def ExchangeBundles(
        self, request: federation_pb2.ExchangeBundlesRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.ExchangeBundlesResponse:
        document = self._federation.providers.exchange(request.bundle, rpc.current_peer())
        return federation_pb2.ExchangeBundlesResponse(bundle=document)

    def PutBundle(
        self, request: federation_pb2.PutBundleRequest, _context: grpc.ServicerContext
    ) -> federation_pb2.PutBundleResponse:
        sequence = self._federation.providers.renew(request.bundle, rpc.current_peer())
        return federation_pb2.PutBundleResponse(sequence=sequence)

    def _message(self, row: ProviderRow) -> federation_pb2.Provider:
        active = self._federation.parting.active(row.domain)
        return self._federation.providers.message(row, active)
