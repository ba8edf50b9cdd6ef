"""The tables of whom this provider knows, and of what they know of it; no query in here."""

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, String, Table

metadata = MetaData()

# Other providers: accepted ones are in the trust folder too, which is made from these rows.
providers = Table(
    "providers",
    metadata,
    Column("domain", String(180), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("bundle", LargeBinary, nullable=False),  # federation.Bundle, the newest
    Column("met_at", BigInteger, nullable=False),
    Column("state_changed_at", BigInteger, nullable=False),
    Column("told_sequence", BigInteger, nullable=False),  # of our bundle that it took last
)

# Without the secrets: of an invitation only what recognises its holder.
invitations = Table(
    "invitations",
    metadata,
    Column("invitation_id", String(32), primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    Column("caller_pem", LargeBinary, nullable=False),
    Column("door_cert", LargeBinary, nullable=False),
    Column("door_key", LargeBinary, nullable=False),
    Column("used_by", String(180), nullable=False),
    Column("used_ca", LargeBinary, nullable=False),
)

# One row: grows with every change of what this provider tells others about itself.
own_bundle = Table(
    "own_bundle",
    metadata,
    Column("sequence", BigInteger, primary_key=True),
    Column("sha256", LargeBinary, nullable=False),
)

old_authorities = Table(
    "old_authorities",
    metadata,
    Column("sha256", LargeBinary, primary_key=True),
    Column("accepted_until", BigInteger, nullable=False),
)
