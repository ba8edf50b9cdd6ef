"""A provider's manager as its operator asks it about the federation and its certificates."""

from watari.cli.calls import PAGE_SIZE, Peer, pages
from watari.identity import SpiffeId
from watari.v1 import federation_pb2, federation_pb2_grpc


class Membership:
    """A provider's manager, asked about the federation and its certificates by its operator."""

    def __init__(self, cloud_id: str, peer: Peer) -> None:
        self.cloud_id = cloud_id
        self._peer = peer
        self._federation = federation_pb2_grpc.FederationServiceStub(peer.channel)
        self._identities = federation_pb2_grpc.IdentityServiceStub(peer.channel)

    def invite(self, ttl_seconds: int) -> federation_pb2.CreateInvitationResponse:
        """A new invitation; 0 seconds leave its life to the manager."""
        request = federation_pb2.CreateInvitationRequest(ttl_seconds=ttl_seconds)
        return self._peer.change(self._federation.CreateInvitation, request)

    def accept(self, invitation: str) -> federation_pb2.AcceptInvitationResponse:
        """Takes up another provider's invitation."""
        request = federation_pb2.AcceptInvitationRequest(invitation=invitation)
        return self._peer.change(self._federation.AcceptInvitation, request)

    def confirm(self, domain: str, ca_sha256: bytes) -> federation_pb2.Provider:
        """Accepts a provider that was met."""
        request = federation_pb2.ConfirmProviderRequest(domain=domain, ca_sha256=ca_sha256)
        return self._peer.change(self._federation.ConfirmProvider, request).provider

    def providers(self) -> list[federation_pb2.Provider]:
        """Every provider that was ever met, by domain."""
        return pages(
            lambda token: self._peer.read(
                self._federation.ListProviders,
                federation_pb2.ListProvidersRequest(page_size=PAGE_SIZE, page_token=token),
            ),
            lambda page: page.providers,
        )

    def provider(self, domain: str) -> federation_pb2.Provider:
        """One provider. Raises NotFound PROVIDER_NOT_FOUND."""
        request = federation_pb2.GetProviderRequest(domain=domain)
        return self._peer.read(self._federation.GetProvider, request).provider

    def remove(self, domain: str) -> federation_pb2.RemoveProviderResponse:
        """Stops accepting a provider."""
        request = federation_pb2.RemoveProviderRequest(domain=domain)
        return self._peer.change(self._federation.RemoveProvider, request)

    def revoke(self, party: SpiffeId, reason: str) -> federation_pb2.Denial:
        """Denies what a party was issued until now."""
        request = federation_pb2.RevokePartyRequest(spiffe_id=str(party), reason=reason)
        return self._peer.change(self._identities.RevokeParty, request).denial

    def rotate(self) -> federation_pb2.RotateAuthorityResponse:
        """Begins to change the authority, or tells how far that is."""
        request = federation_pb2.RotateAuthorityRequest()
        return self._peer.change(self._identities.RotateAuthority, request)
