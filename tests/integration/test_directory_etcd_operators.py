"""What operators see and do in etcd: keys, compaction, snapshots, users, certificates."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from directory.etcd_settings import EtcdSettings
from directory.records import Key
from directory.stores import etcd_store
from tests.conftest import Federation
from tests.support import directory_server, etcd_cluster
from tests.support.directory_samples import capacity, cloud, offer
from tests.support.directory_server import TOKYO, Start, eventually, watched
from watari import errors
from watari.v1 import directory_pb2


def test_what_etcd_has_compacted_is_listed_again(
    on_etcd: Start, etcd: etcd_cluster.Cluster
) -> None:
    first = on_etcd().client(TOKYO)
    lease = first.lease("tokyo")
    position = first.publish(lease, cloud())
    last = [first.publish(lease, capacity(vcpus=vcpus)) for vcpus in range(5)][-1]
    etcd.etcdctl("compact", str(last))
    assert len(watched(first, position, 5)) == 5, "who runs has a history of its own"
    later = on_etcd().client(TOKYO)
    with pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"):
        watched(later, position, 1)
    page = later.query()
    assert page.revision == last
    assert [record.generation for record in page.records] == [1, 5]


def test_an_etcd_that_was_put_back_to_a_snapshot_is_noticed(
    on_etcd: Start, etcd: etcd_cluster.Cluster, tmp_path: Path
) -> None:
    tokyo = on_etcd().client(TOKYO)
    lease = tokyo.lease("tokyo")
    before = tokyo.publish(lease, cloud())
    etcd.etcdctl("snapshot", "save", str(tmp_path / "snapshot"), endpoints=etcd.nodes[0].client)
    for vcpus in range(20):
        tokyo.publish(lease, capacity(vcpus=vcpus))
    etcd.restore(tmp_path / "snapshot")

    def names() -> list[str]:
        return [record.key.name for record in tokyo.query().records]

    eventually(lambda: names() == ["main"], "the state of the snapshot", 30)
    assert tokyo.query().revision == before
    assert tokyo.publish(lease, offer()) > before
    assert names() == ["main", "standard"]


def test_etcdctl_shows_keys_that_people_can_read(
    on_etcd: Start, etcd: etcd_cluster.Cluster
) -> None:
    tokyo = on_etcd().client(TOKYO)
    lease = tokyo.lease("tokyo")
    tokyo.publish(lease, cloud(), offer())
    keys = etcd.etcdctl("get", "--prefix", "--keys-only", "/watari/").split()
    requests = [key for key in keys if key.startswith("/watari/requests/")]
    assert len(requests) == 1
    assert sorted(set(keys) - set(requests)) == [
        "/watari/clouds/tokyo",
        "/watari/head",
        f"/watari/leases/{lease}",
        "/watari/mark",
        "/watari/providers/tokyo.example",
        "/watari/records/tokyo/cloud/main",
        "/watari/records/tokyo/offer/standard",
    ]
    value = etcd.etcdctl("get", "--print-value-only", "/watari/clouds/tokyo")
    assert json.loads(value) == {"owner": "tokyo.example", "records": 2}
    head = etcd.etcdctl("get", "--print-value-only", "/watari/records/tokyo/offer/standard")
    assert json.loads(head.partition("\n")[0]) == {"lease": lease, "stale_since": None}


def test_what_people_write_into_etcd_or_delete_from_it_breaks_nothing(
    on_etcd: Start, etcd: etcd_cluster.Cluster
) -> None:
    tokyo = on_etcd().client(TOKYO)
    lease = tokyo.lease("tokyo")
    revision = tokyo.publish(lease, cloud(), capacity())
    for key in ("records/tokyo/offer/x", "records/odd", "clouds/kyoto", "leases/x", "other"):
        etcd.etcdctl("put", f"/watari/{key}", "no value of ours")
    etcd.etcdctl("del", "/watari/records/tokyo/capacity/jp-east")
    with tokyo.watch(after_revision=revision) as messages:
        next(messages)
        (change,) = next(messages).changes
    assert change.kind == directory_pb2.CHANGE_KIND_DELETE
    assert Key.of(change.record.key) == Key.of(capacity().key)
    assert [record.key.name for record in on_etcd().client(TOKYO).query().records] == ["main"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that opens without its catalogue soon, and refuses everything."""
    monkeypatch.setattr(etcd_store, "START_SECONDS_MAX", 2.0)


@pytest.mark.usefixtures("impatient")
def test_a_user_of_etcd_needs_no_more_than_its_prefix(
    on_etcd: Start, etcd: etcd_cluster.Cluster, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    for command in (
        "user add root:root",
        "user grant-role root root",
        "user add watari:s3cret",
        "role add directory",
        "role grant-permission directory readwrite --prefix=true /watari/",
        "user grant-role watari directory",
        "auth enable",
    ):
        etcd.etcdctl(*command.split())
    plain = etcd.settings()
    settings = EtcdSettings(
        plain.endpoints, plain.ca, plain.certificate, plain.key, "watari", password
    )
    tokyo = on_etcd(settings).client(TOKYO)
    lease = tokyo.lease("tokyo")
    revision = tokyo.publish(lease, cloud())
    assert tokyo.query().revision == revision
    password.write_text("wrong")
    with pytest.raises(errors.Unavailable, match="STORE_UNAVAILABLE"):
        on_etcd(settings).client(TOKYO).query()


@pytest.mark.usefixtures("impatient")
def test_a_certificate_of_another_authority_is_not_spoken_to(
    on_etcd: Start, etcd: etcd_cluster.Cluster, tmp_path: Path
) -> None:
    strangers = etcd_cluster.Certificates(tmp_path / "strangers", [])
    plain = etcd.settings()
    settings = EtcdSettings(plain.endpoints, strangers.path("ca.pem"), plain.certificate, plain.key)
    with pytest.raises(errors.Unavailable, match="STORE_UNAVAILABLE"):
        on_etcd(settings).client(TOKYO).query()


def test_the_settings_name_one_place_for_the_catalogue(federation: Federation) -> None:
    with pytest.raises(ValueError, match=r"either state_path or etcd\.endpoints"):
        directory_server.run(federation, None, ExitStack(), {})
