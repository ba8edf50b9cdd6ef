"""Who a party is, how it proves it, and whose word counts.

Promises: every party has one SPIFFE id, `spiffe://<provider domain>/<role>/<name>`, in an ECDSA
P-256 certificate that its own provider's CA signed; a CA that is accepted for one domain cannot
speak for another; signed documents stay checkable after the connection is gone.

Never: reads a private key that others can read, trusts a host name, or falls back to the system's
certificate authorities. CAs sign leaves directly (path length 0), so a chain is one certificate.
"""

from watari.identity.authority import Authority, create_ca
from watari.identity.denials import Denial
from watari.identity.documents import sign, verify
from watari.identity.files import load_key, save_certificate, save_key
from watari.identity.party import Identity
from watari.identity.spiffe import Role, SpiffeId, validate_domain
from watari.identity.trust import TrustStore

__all__ = [
    "Authority",
    "Denial",
    "Identity",
    "Role",
    "SpiffeId",
    "TrustStore",
    "create_ca",
    "load_key",
    "save_certificate",
    "save_key",
    "sign",
    "validate_domain",
    "verify",
]
