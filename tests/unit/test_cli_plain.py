"""watari.cli.plain: messages of the contract as plain values."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from watari import identity, money
from watari.cli import place
from watari.cli.plain import enum_name, plain
from watari.clock import FakeClock
from watari.identity import Identity, SpiffeId, TrustStore
from watari.v1 import agent_pb2, broker_pb2, common_pb2, directory_pb2, manager_pb2


def test_integers_stay_numbers_and_enums_become_words() -> None:
    migration = manager_pb2.Migration(state=manager_pb2.MIGRATION_STATE_HANDED_OVER, generation=7)
    migration.progress.total_bytes = 2**40
    shown = plain(migration)
    assert shown["state"] == "handed_over"
    assert shown["generation"] == 7
    assert shown["progress"]["total_bytes"] == 2**40


def test_what_is_not_set_is_there_all_the_same() -> None:
    shown = plain(manager_pb2.Migration())
    assert shown["problem"] is None
    assert shown["ended_at"] is None
    assert shown["vm_name"] == ""
    assert plain(manager_pb2.Vm())["disks"] == []


def test_times_are_utc_text() -> None:
    migration = manager_pb2.Migration()
    migration.created_at.FromDatetime(datetime(2026, 5, 1, 12, 30, 15, 250_000, UTC))
    assert plain(migration)["created_at"] == "2026-05-01T12:30:15.250Z"


def test_spans_of_time_are_seconds() -> None:
    placement = broker_pb2.PlaceResponse()
    assert plain(placement)["snapshot_age"] is None
    placement.snapshot_age.FromMilliseconds(30_250)
    assert plain(placement)["snapshot_age"] == 30.25


def test_a_placement_of_an_outage_is_shown_with_its_age() -> None:
    placement = broker_pb2.PlaceResponse(snapshot_stale=True)
    placement.snapshot_age.FromSeconds(30)
    (told,) = place.shown(place.placed(placement))
    assert told == "no directory answers: this is what was known 30.0 s ago"


def test_money_is_exact_text_with_its_currency() -> None:
    candidate = broker_pb2.Candidate(hourly_price=money.from_decimal(Decimal("0.0412"), "EUR"))
    price = plain(candidate)["hourly_price"]
    assert Decimal(price["amount"]) == Decimal("0.0412")
    assert price["currency"] == "EUR"


def test_maps_and_bytes_are_plain() -> None:
    record = directory_pb2.Record(labels={"tier": "gold", "a": "b"})
    assert list(plain(record)["labels"].items()) == [("a", "b"), ("tier", "gold")]
    assert plain(manager_pb2.UsageRecord(receipt_root=b"\x01\xff"))["receipt_root"] == "01ff"


def test_an_enum_value_of_a_newer_peer_is_shown_as_its_number() -> None:
    assert enum_name(manager_pb2.MigrationState.DESCRIPTOR, 99) == "99"
    assert enum_name(agent_pb2.GuestState.DESCRIPTOR, agent_pb2.GUEST_STATE_SHUT_OFF) == "shut_off"


def test_a_receipt_is_shown_opened_and_with_its_signer(tmp_path: Path) -> None:
    party = SpiffeId("osaka.example", identity.Role.AGENT, "host-1")
    cert_pem, key_pem = identity.create_ca("osaka.example", FakeClock()).issue(party)
    signer = Identity(party, cert_pem, key_pem, TrustStore(tmp_path))
    receipt = common_pb2.Receipt(raw_bytes=5, root=b"\xab" * 32)
    document = identity.sign(signer, receipt.SerializeToString(), "receipt")
    shown = plain(manager_pb2.Migration(receipt=document))["receipt"]
    assert shown["signed_by"] == "spiffe://osaka.example/agent/host-1"
    assert shown["root"] == "ab" * 32
    json.dumps(shown)


def test_a_document_that_cannot_be_opened_is_said_to_be_so() -> None:
    document = common_pb2.SignedDocument(
        payload=b"\xff\xff", purpose="receipt", certificates=[b"x"]
    )
    shown = plain(manager_pb2.Migration(receipt=document))["receipt"]
    assert shown == {"purpose": "receipt", "signed_by": None, "unreadable": True}


def test_a_map_of_times_is_one_of_texts() -> None:
    cloud = directory_pb2.Cloud(taints=["maintenance"])
    cloud.taint_ends["maintenance"].FromJsonString("2026-12-01T06:00:00Z")
    assert plain(cloud)["taint_ends"] == {"maintenance": "2026-12-01T06:00:00.000Z"}
