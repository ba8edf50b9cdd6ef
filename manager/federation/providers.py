"""Meeting, accepting and removing other providers."""

import threading
from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy.engine import Connection

from manager import audit
from manager.federation import documents, rows, visiting
from manager.federation.invitations import Invitations
from manager.federation.own import OwnBundle, fingerprint
from manager.federation.rows import ProviderRow, State
from manager.settings import Settings
from manager.store import Store, micros, moment
from watari import bundles, errors, logs
from watari.clock import Clock
from watari.identity import Identity, SpiffeId, invitation
from watari.identity.invitation import Invitation
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, federation_pb2

_log = logs.get(__name__)


class Providers:
    """The other providers. From any thread."""

    def __init__(
        self,
        settings: Settings,
        own: Identity,
        store: Store,
        clock: Clock,
        bundle: OwnBundle,
        invitations: Invitations,
    ) -> None:
        self._settings = settings
        self._own = own
        self._store = store
        self._clock = clock
        self._bundle = bundle
        self._invitations = invitations
        self._lock = threading.Lock()
        self._folder = threading.Lock()
        """Held over a change of rows and of the trust folder, so that they end up the same."""
        self._managers: dict[str, EndpointSettings] = {}

    def restore(self) -> None:
        """Makes the trust folder say what the rows say, after a crash between the two. Providers
        that were put into the folder by hand stay. Raises OSError.
        """
        with self._store.read() as connection:
            known = rows.providers(connection)
        for row in known:
            try:
                if row.state is State.ACCEPTED:
                    bundles.put(self._own.trust.folder, row.bundle)
                elif row.state is State.REMOVED:
                    bundles.drop(self._own.trust.folder, row.domain)
            except errors.WatariError as error:  # of one provider: the others must go on
                _log.error("provider not restored", domain=row.domain, problem=error.message)
        self._learn()

    @property
    def managers(self) -> Mapping[str, EndpointSettings]:
        """The managers of accepted providers' clouds, by cloud."""
        return self._managers

    def manager_of(self, cloud_id: str) -> EndpointSettings | None:
        """The manager of an accepted provider's cloud, as that provider told it."""
        return self._managers.get(cloud_id)

    def invite(self, ttl_seconds: int, caller: SpiffeId) -> Invitation:
        """A new invitation. Raises Exhausted INVITATION_INVALID."""
        own = self._bundle.current()
        return self._invitations.create(
            self._own.spiffe_id, own.manager.address, fingerprint(own), ttl_seconds, caller
        )

    def accept_invitation(self, text: str, caller: SpiffeId) -> ProviderRow:
        """Visits the inviting provider; it is PENDING here afterwards. Raises InvalidArgument
        INVITATION_INVALID, Unavailable PEER_UNAVAILABLE, FailedPrecondition PROVIDER_STATE.
        """
        invited = Invitation.parse(text)
        now = self._clock.now()
        if invited.expires_at <= now:
            raise invitation.invalid(f"it ran out at {invited.expires_at.isoformat()}")
        if invited.manager.domain == self._own.spiffe_id.domain:
            raise invitation.invalid("it is this provider's own")
        answer = visiting.exchange(
            invited,
            self._bundle.signed(),
            self._clock,
            self._settings.federation.call_seconds_max,
        )
        bundle = documents.introduced(answer, self._own.spiffe_id.domain, now)
        if bundle.domain != invited.manager.domain:
            raise invitation.invalid(f"{bundle.domain} answers, not {invited.manager.domain}")
        documents.require_fingerprint(bundle, invited.ca_sha256)
        return self._meet(bundle, caller)

    def exchange(
        self, document: common_pb2.SignedDocument, invitee: SpiffeId
    ) -> common_pb2.SignedDocument:
        """The own bundle for that of an invited provider, which is PENDING here afterwards. Raises
        Denied INVITATION_INVALID, and what makes its bundle no bundle.
        """
        own_domain = self._own.spiffe_id.domain
        bundle = documents.introduced(document, own_domain, self._clock.now())
        self._require_meetable(bundle)
        self._invitations.use(invitee, bundle.domain, fingerprint(bundle))
        self._meet(bundle, invitee)
        return self._bundle.signed()

    def confirm(self, domain: str, ca_sha256: bytes, caller: SpiffeId) -> ProviderRow:
        """Accepts a provider whose fingerprint an operator has compared. Idempotent.

        Raises NotFound PROVIDER_NOT_FOUND, FailedPrecondition PROVIDER_STATE.
        """
        with self._folder, self._store.write() as connection:
            row = _require(rows.provider(connection, domain), domain)
            if fingerprint(row.bundle) != ca_sha256:
                raise _state(row, "its fingerprint is not the one that was confirmed")
            if row.state is State.REMOVED:
                raise _state(row, "it was removed; let it join again by an invitation")
            self._require_clouds_free(connection, row.bundle)
            if row.state is State.PENDING:
                row = replace(row, state=State.ACCEPTED, state_changed_at=self._now())
                rows.put_provider(connection, row)
                self._note(connection, "provider.accepted", row, caller)
            bundles.put(self._own.trust.folder, row.bundle)
        self._invitations.close(domain)
        self._learn()
        _log.info("provider accepted", domain=domain)
        return row

    def renew(self, document: common_pb2.SignedDocument, caller: SpiffeId) -> int:
        """Takes a newer bundle of an accepted provider; the number of the newest. Raises
        Unauthenticated SIGNATURE_INVALID, FailedPrecondition PROVIDER_STATE.
        """
        bundle = documents.renewed(document, caller, self._own.trust, self._clock.now())
        with self._folder, self._store.write() as connection:
            row = _require(rows.provider(connection, bundle.domain), bundle.domain)
            if row.state is not State.ACCEPTED:
                raise _state(row, "it is not accepted")
            if bundle.sequence <= row.bundle.sequence:
                return row.bundle.sequence
            # Clouds are what an operator has seen and confirmed: no more of them come by the way.
            confirmed = [each for each in bundle.cloud_ids if each in row.bundle.cloud_ids]
            bundle.cloud_ids[:] = confirmed
            same = _said(bundle) == _said(row.bundle)
            row = replace(row, bundle=bundle)
            rows.put_provider(connection, row)
            if same:
                return bundle.sequence
            self._note(connection, "provider.bundle_taken", row, caller)
            bundles.put(self._own.trust.folder, bundle)
        self._learn()
        _log.info("bundle taken", domain=bundle.domain, sequence=bundle.sequence)
        return bundle.sequence

    def remove(self, domain: str, caller: SpiffeId) -> ProviderRow:
        """Stops accepting a provider. Idempotent. Raises NotFound PROVIDER_NOT_FOUND."""
        with self._folder, self._store.write() as connection:
            row = _require(rows.provider(connection, domain), domain)
            if row.state is not State.REMOVED:
                row = replace(
                    row, state=State.REMOVED, state_changed_at=self._now(), told_sequence=0
                )
                rows.put_provider(connection, row)
                self._note(connection, "provider.removed", row, caller)
            bundles.drop(self._own.trust.folder, domain)
        self._invitations.close(domain)
        self._learn()
        _log.info("provider removed", domain=domain)
        return row

    def get(self, domain: str) -> ProviderRow:
        """One provider. Raises NotFound PROVIDER_NOT_FOUND."""
        with self._store.read() as connection:
            return _require(rows.provider(connection, domain), domain)

    def page(self, after: str, limit: int) -> list[ProviderRow]:
        """Providers by domain."""
        with self._store.read() as connection:
            return rows.providers(connection, after=after, limit=limit)

    def message(self, row: ProviderRow, migrations_active: int) -> federation_pb2.Provider:
        """A provider as the contract has it."""
        theirs = fingerprint(row.bundle)
        message = federation_pb2.Provider(
            domain=row.domain,
            state=_STATES[row.state],
            ca_sha256=theirs,
            code=invitation.code(self._bundle.fingerprint, theirs),
            bundle=row.bundle,
            told_sequence=row.told_sequence,
            migrations_active=migrations_active,
        )
        message.met_at.FromDatetime(moment(row.met_at))
        message.state_changed_at.FromDatetime(moment(row.state_changed_at))
        return message

    def _require_clouds_free(self, connection: Connection, bundle: federation_pb2.Bundle) -> None:
        elsewhere = rows.known_managers(connection) | {
            cloud_id: endpoint.spiffe_id for cloud_id, endpoint in self._settings.peers.items()
        }
        own_cloud, others = self._settings.cloud_id, rows.providers(connection)
        documents.require_clouds_free(bundle, own_cloud, others, elsewhere)

    def _require_meetable(self, bundle: federation_pb2.Bundle) -> None:
        with self._store.read() as connection:
            row = rows.provider(connection, bundle.domain)
        accepted = row is not None and row.state is State.ACCEPTED
        if row is not None and accepted and fingerprint(row.bundle) != fingerprint(bundle):
            raise _state(row, "it is accepted with another authority; remove it first")

    def _meet(self, bundle: federation_pb2.Bundle, caller: SpiffeId) -> ProviderRow:
        self._require_meetable(bundle)
        now = self._now()
        with self._store.write() as connection:
            row = rows.provider(connection, bundle.domain)
            known = row is not None and row.state is State.PENDING and row.bundle == bundle
            if row is None or not (known or row.state is State.ACCEPTED):
                row = ProviderRow(bundle.domain, State.PENDING, bundle, now, now)
                rows.put_provider(connection, row)
                self._note(connection, "provider.met", row, caller)
        _log.info("provider met", domain=bundle.domain, state=row.state)
        return row

    def _note(
        self, connection: Connection, action: str, row: ProviderRow, caller: SpiffeId
    ) -> None:
        audit.append(
            connection,
            self._now(),
            actor=caller,
            action=action,
            subject=row.domain,
            details={
                "ca_sha256": fingerprint(row.bundle).hex(),
                "manager": row.bundle.manager.spiffe_id,
                "sequence": row.bundle.sequence,
                "state": row.state,
            },
        )

    def _learn(self) -> None:
        with self._lock, self._store.read() as connection:
            self._managers = {
                cloud_id: EndpointSettings(row.bundle.manager.address, row.bundle.manager.spiffe_id)
                for row in rows.providers(connection, state=State.ACCEPTED)
                for cloud_id in row.bundle.cloud_ids
            }

    def _now(self) -> int:
        return micros(self._clock.now())


_STATES = {
    State.PENDING: federation_pb2.PROVIDER_STATE_PENDING,
    State.ACCEPTED: federation_pb2.PROVIDER_STATE_ACCEPTED,
    State.REMOVED: federation_pb2.PROVIDER_STATE_REMOVED,
}


def _said(bundle: federation_pb2.Bundle) -> federation_pb2.Bundle:
    """What a bundle says, but for its number."""
    said = federation_pb2.Bundle()
    said.CopyFrom(bundle)
    said.sequence = 0
    return said


def _require(row: ProviderRow | None, domain: str) -> ProviderRow:
    if row is None:
        raise errors.NotFound(
            "PROVIDER_NOT_FOUND",
            f"no provider {domain} was ever met",
            hint="`watari federation list` shows those that were",
            domain=domain,
        )
    return row


def _state(row: ProviderRow, why: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        "PROVIDER_STATE",
        f"provider {row.domain}: {why}",
        hint=f"it is {row.state} here; `watari federation show {row.domain}` tells more",
        state=row.state,
    )
