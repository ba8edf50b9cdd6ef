"""A first page of a query while the history that it is taken from is replaced."""

from pathlib import Path

import pytest

from directory import queries
from directory.records import Key
from directory.stores.embedded import EmbeddedStore
from tests.support.directory_samples import cloud, new_id, publication
from tests.support.directory_stores import LIMITS, TOKYO
from watari import errors
from watari.clock import FakeClock
from watari.v1 import directory_pb2


class Moved(EmbeddedStore):
    """Tells revisions that are gone by the time they are asked for, so many times."""

    moves = 0

    def revision(self) -> int:
        if not self.moves:
            return super().revision()
        self.moves -= 1
        return super().revision() + 24


@pytest.fixture
def store(tmp_path: Path) -> Moved:
    store = Moved(tmp_path / "directory.db", LIMITS, FakeClock())
    lease = store.grant_lease(new_id(), "tokyo", TOKYO, 30).lease_id
    store.publish(publication(lease, [cloud()]))
    return store


def test_a_first_page_begins_again_when_its_history_was_replaced(store: Moved) -> None:
    store.moves = queries.BEGUN_AGAIN_MAX
    page = queries.run(store, directory_pb2.QueryRecordsRequest())
    assert [Key.of(record.key).name for record in page.records] == ["main"]
    assert page.revision == store.revision()


def test_it_does_not_begin_again_for_ever(store: Moved) -> None:
    store.moves = queries.BEGUN_AGAIN_MAX + 1
    with pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"):
        queries.run(store, directory_pb2.QueryRecordsRequest())
