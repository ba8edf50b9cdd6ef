"""Whose what arrives is: who may find out about it on this host."""

import pytest

from agent.stored import provider_of, scope_of
from watari.v1 import common_pb2

OSAKA = "spiffe://osaka.example/agent/host-1"


@pytest.mark.parametrize(
    ("home", "provider"),
    [
        ("", "osaka.example"),
        ("osaka.example", "osaka.example"),
        ("tokyo.example", "osaka.example/tokyo.example"),
    ],
)
def test_a_tenant_is_its_senders_unless_that_one_says_whose_it_is(home, provider):
    assert provider_of(common_pb2.Grant(source_agent=OSAKA, tenant_domain=home)) == provider


def test_a_sender_gets_at_nothing_of_a_tenant_that_it_names():
    """Tokyo's acme, what osaka says is tokyo's acme, and osaka's own are scopes of their own."""
    kyoto = "spiffe://kyoto.example/agent/host-1"
    claims = [
        common_pb2.Grant(source_agent=OSAKA, tenant_domain="tokyo.example"),
        common_pb2.Grant(source_agent=OSAKA),
        common_pb2.Grant(source_agent=kyoto, tenant_domain="tokyo.example"),
        common_pb2.Grant(source_agent="spiffe://tokyo.example/agent/host-1"),
    ]
    scopes = [scope_of(provider_of(grant), "acme") for grant in claims]
    assert len(set(scopes)) == len(claims)
