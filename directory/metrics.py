"""What Prometheus is told of a directory, beside its calls."""

from collections.abc import Callable, Iterator

from directory.records import kind_name
from directory.stores import DirectoryStore
from watari import errors
from watari.metrics import Gauge


def collector(store: DirectoryStore, watchers: Callable[[], int]) -> Callable[[], Iterator[Gauge]]:
    """What is asked at every fetch."""

    def collect() -> Iterator[Gauge]:
        yield Gauge("watari_directory_watchers", "Watches that are open.", watchers())
        age = store.age()
        yield Gauge(
            "watari_directory_store_up",
            "Whether what keeps the catalogue answers: etcd, where it is there.",
            float(age is None),
        )
        yield Gauge(
            "watari_directory_snapshot_age_seconds",
            "How old answers may be while it does not.",
            age or 0.0,
        )
        try:
            census = store.census()
        except errors.Unavailable:
            return  # not read yet: there is nothing to count
        yield Gauge("watari_directory_revision", "Of the last change.", census.revision)
        yield Gauge("watari_directory_leases", "Leases that are alive.", census.leases)
        records = Gauge("watari_directory_records", "Records by kind.", labels=["kind", "stale"])
        for (kind, stale), count in sorted(census.records.items()):
            records.add_metric([kind_name(kind).lower(), str(stale).lower()], count)
        yield records

    return collect
