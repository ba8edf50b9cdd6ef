"""One page of a query: which records, at which revision, and where the next page begins."""

from datetime import timedelta

from directory import filters
from directory.records import Key, require_kind
from directory.stores import DirectoryStore
from watari import errors, paging, validate
from watari.v1 import directory_pb2

SCANNED_MAX = 10_000
"""Records looked at for one page. A page of a filter that few records match may be short, or even
empty, with a token to go on; so one call never holds a thread for long."""

SCANNED_AT_ONCE_MAX = 500
"""Records in memory at a time while a page is put together."""

PAGE_BYTES_MAX = 2 * 1024 * 1024
"""A page ends when its records exceed this, well below what a message may have."""

BEGUN_AGAIN_MAX = 3
"""How often a first page begins again because its history was replaced meanwhile."""

_POSITION = (int, int, str, str)


def run(
    store: DirectoryStore, request: directory_pb2.QueryRecordsRequest
) -> directory_pb2.QueryRecordsResponse:
    """The page that the request asks for.

    Raises InvalidArgument: FILTER_INVALID, PAGE_TOKEN_INVALID, INVALID_FIELD; OutOfRange
    REVISION_COMPACTED when the revision of the token is no longer kept.
    """
    size = paging.page_size(request.page_size)
    selection = Selection(request.kind, request.cloud_id, request.filter)
    query = paging.fingerprint(request)
    position = paging.decode(query, request.page_token, _POSITION)
    if position:
        return _page(store, request, selection, size, query, position[0], Key(*position[1:]))
    for _ in range(BEGUN_AGAIN_MAX):
        try:
            return _page(store, request, selection, size, query, store.revision(), None)
        except errors.OutOfRange:
            # The history was replaced between two reads. The caller named no revision: any will do.
            continue
    return _page(store, request, selection, size, query, store.revision(), None)


def _page(
    store: DirectoryStore,
    request: directory_pb2.QueryRecordsRequest,
    selection: "Selection",
    size: int,
    query: bytes,
    revision: int,
    after: Key | None,
) -> directory_pb2.QueryRecordsResponse:
    """The page at `revision` that begins after a record. Raises OutOfRange REVISION_COMPACTED."""
    page = directory_pb2.QueryRecordsResponse(revision=revision)
    tell_age(store, page)
    scanned, page_bytes = 0, 0
    while scanned < SCANNED_MAX and len(page.records) < size and page_bytes < PAGE_BYTES_MAX:
        found = store.scan(revision, request.kind, request.cloud_id, after, SCANNED_AT_ONCE_MAX)
        if not found:
            return page
        for record in found:
            scanned, after = scanned + 1, Key.of(record.key)
            if selection.matches(record) and not (request.fresh_only and record.stale):
                page.records.append(record)
                page_bytes += record.ByteSize()
            if len(page.records) == size or page_bytes >= PAGE_BYTES_MAX:
                break
    if after is not None and store.scan(revision, request.kind, request.cloud_id, after, 1):
        page.next_page_token = paging.encode(query, (revision, *after))
    return page


def tell_age(
    store: DirectoryStore,
    answer: directory_pb2.QueryRecordsResponse | directory_pb2.GetRecordResponse,
) -> None:
    """Marks an answer that may be of the past."""
    age = store.age()
    if age is not None:
        answer.snapshot_age.FromTimedelta(timedelta(seconds=age))


class Selection:
    """Which records a query or a watch is about."""

    def __init__(self, kind: int, cloud_id: str, expression: str) -> None:
        """Raises InvalidArgument INVALID_FIELD, FILTER_INVALID."""
        self._kind = kind and require_kind(kind, "kind")
        self._cloud_id = cloud_id and validate.require_cloud_id(cloud_id, "cloud_id")
        self._filter = filters.parse(expression)

    def concerns(self, key: directory_pb2.RecordKey) -> bool:
        """Whether kind and cloud agree."""
        return self._kind in {0, key.kind} and self._cloud_id in {"", key.cloud_id}

    def matches(self, record: directory_pb2.Record) -> bool:
        """Whether the record belongs to the selection."""
        return self.concerns(record.key) and self._filter.matches(record)
