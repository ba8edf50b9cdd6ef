"""Queries to the directory over mutual TLS: filters, and pages of one revision."""

import pytest

from directory import queries
from tests.support.directory_samples import capacity, cloud, offer
from tests.support.directory_server import TOKYO, Client, Running, Start, with_labels
from watari import errors, rpc
from watari.v1 import directory_pb2

BROKER = "spiffe://hub.example/broker/main"


def test_a_query_filters_and_shows_its_revision(running: Running, tokyo: Client) -> None:
    revision = tokyo.publish(
        tokyo.lease("tokyo"),
        cloud(),
        capacity(name="east", vcpus=8),
        capacity(name="west", vcpus=2, region="jp-west"),
        offer(),
    )
    broker = running.client(BROKER)
    answer = broker.query('region = "jp-east" AND free.vcpus >= 4')
    assert [record.key.name for record in answer.records] == ["east"]
    assert answer.revision == revision
    assert answer.next_page_token == ""
    assert len(broker.query().records) == 4
    assert len(broker.query(kind=directory_pb2.RECORD_KIND_CAPACITY).records) == 2
    with pytest.raises(errors.InvalidArgument) as caught:
        broker.query("region ~ x")
    assert (caught.value.reason, caught.value.metadata["position"]) == ("FILTER_INVALID", "7")


def test_all_pages_of_a_query_show_one_revision(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    revision = tokyo.publish(lease, *(offer(name=f"o{at:02}") for at in range(25)))
    seen, token = [], ""
    while True:
        page = tokyo.query("kind = OFFER", page_size=10, page_token=token)
        assert page.revision == revision
        seen += [record.key.name for record in page.records]
        # In the middle of it the catalogue changes: before, within and after what was seen.
        tokyo.publish(lease, *(offer(name=name) for name in ("a", f"o{len(seen):02}x", "z")))
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"o{at:02}" for at in range(25)]


def test_a_page_token_is_good_for_its_own_query_only(tokyo: Client) -> None:
    tokyo.publish(tokyo.lease("tokyo"), cloud(), offer())
    token = tokyo.query(page_size=1).next_page_token
    with pytest.raises(errors.InvalidArgument, match="PAGE_TOKEN_INVALID"):
        tokyo.query("stale = false", page_token=token)
    with pytest.raises(errors.InvalidArgument, match="PAGE_TOKEN_INVALID"):
        tokyo.query(page_token=token[:-2])


def test_a_page_of_a_compacted_revision_is_out_of_range(start: Start) -> None:
    running = start(changes_kept_max=1000)
    tokyo = running.client(TOKYO)
    lease = tokyo.lease("tokyo")
    tokyo.publish(lease, cloud(), offer())
    token = tokyo.query(page_size=1).next_page_token
    for _ in range(2):
        tokyo.publish(lease, *(capacity(name=f"c{at}") for at in range(999)))
    with pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"):
        tokyo.query(page_size=1, page_token=token)


def test_a_page_ends_before_it_outgrows_a_message(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    large = {f"label-{at}": "x" * 128 for at in range(64)}
    for part in range(6):
        names = [f"p{part}-{at}" for at in range(60)]
        tokyo.publish(lease, *(with_labels(offer(name=name), large) for name in names))
    first = tokyo.query(page_size=1000)
    assert first.ByteSize() < rpc.MESSAGE_BYTES_MAX
    assert 0 < len(first.records) < 360
    rest = tokyo.query(page_size=1000, page_token=first.next_page_token)
    assert len(first.records) + len(rest.records) == 360
    assert rest.next_page_token == ""


def test_a_page_of_a_rare_match_may_be_short_but_leads_on(
    tokyo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "SCANNED_MAX", 10)
    monkeypatch.setattr(queries, "SCANNED_AT_ONCE_MAX", 5)
    tokyo.publish(tokyo.lease("tokyo"), *(offer(name=f"o{at:02}") for at in range(35)))
    found, token, pages = [], "", 0
    while pages == 0 or token:
        page = tokyo.query("name = o33", page_token=token)
        found += [record.key.name for record in page.records]
        token, pages = page.next_page_token, pages + 1
    assert (found, pages) == (["o33"], 4)
