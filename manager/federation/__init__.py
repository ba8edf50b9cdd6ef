"""Who belongs to the federation, seen from one provider.

Promises: a provider is accepted only after bundles were exchanged over a connection that both sides
authenticated by a single-use invitation, and an operator here has confirmed its fingerprint. What
is accepted, denied or removed is in force at once here, within a second or two at the other
servers, and is told to the accepted providers as soon as they can be reached. Certificates are
issued to parties for the very identity that they have proven.

Never: accepts anything in another provider's name, takes an older bundle in place of a newer one,
or gives the authority's key away.
"""
