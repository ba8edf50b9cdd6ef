"""What every store refuses, in the same words. Pure."""

from directory.leases import LeaseTable
from directory.records import Put
from directory.stores import Publication
from watari import errors


def require_own_keys(publication: Publication, cloud_id: str) -> None:
    """All records of a publish belong to the cloud of its lease. Raises Denied NOT_RECORD_OWNER."""
    for key in (*(put.key for put in publication.puts), *publication.deletes):
        if key.cloud_id != cloud_id:
            raise errors.Denied(
                "NOT_RECORD_OWNER",
                f"{key} does not belong to cloud {cloud_id}, whose lease this is",
                hint="publish each cloud's records under a lease of that cloud",
                record=key,
            )


def require_generation(put: Put, actual: int) -> None:
    """`actual` is the record's generation, 0 if there is none. Raises Conflict
    GENERATION_CONFLICT.
    """
    if put.expected_generation == 0:
        return
    expected = max(put.expected_generation, 0)
    if actual != expected:
        raise errors.Conflict(
            "GENERATION_CONFLICT",
            f"{put.key} has generation {actual}, not {expected} (0 is: does not exist)",
            hint="read the record again, then decide",
            record=put.key,
            expected=expected,
            actual=actual,
        )


def require_within(count: int, most: int, what: str) -> None:
    """Raises Exhausted QUOTA_EXCEEDED."""
    if count > most:
        raise errors.Exhausted(
            "QUOTA_EXCEEDED",
            f"the directory holds at most {most} {what}",
            hint="delete what is not needed, or ask the directory's operator for more",
            limit=most,
        )


def require_records(count: int, most: int, cloud_id: str) -> None:
    """As `require_within`, of a cloud's records."""
    require_within(count, most, f"records of {cloud_id}")


def require_free_lease(table: LeaseTable, lease_id: str, cloud_id: str, most: int) -> None:
    """The cloud may have this lease: it is its own already, or a new one of at most so many.

    Raises AlreadyExists ID_REUSED, Exhausted QUOTA_EXCEEDED.
    """
    held = table.get(lease_id)
    if held is None:
        require_within(table.count(cloud_id) + 1, most, f"leases of {cloud_id}")
    elif held.cloud_id != cloud_id:
        raise reused("lease_id", lease_id)


def require_clouds(count: int, most: int, owner: str) -> None:
    """As `require_within`, of a provider's clouds."""
    require_within(count, most, f"clouds of {owner}")


def reused(field: str, value: str) -> errors.AlreadyExists:
    """An id that means something else already."""
    return errors.AlreadyExists(
        "ID_REUSED",
        f"{field} {value} was used before with other content",
        hint="make a new UUID for every new request",
        field=field,
    )


def require_same_request(publication: Publication, digest: bytes) -> None:
    """`digest` is that of the request with this id. Raises AlreadyExists ID_REUSED."""
    if digest != publication.digest:
        raise reused("request_id", publication.request_id)
