"""Pages of policies and plans are bounded by bytes as well as by number."""

from broker.automation import service
from watari import paging
from watari.v1 import broker_pb2

QUERY = paging.fingerprint(broker_pb2.ListPlansRequest())


def plans(count: int, reason: str) -> list[tuple[tuple[int, str], broker_pb2.Plan]]:
    moves = [broker_pb2.PlannedMove(reason=reason)]
    return [((n, str(n)), broker_pb2.Plan(plan_id=str(n), moves=moves)) for n in range(count)]


def test_a_page_ends_at_its_size_or_when_it_is_large() -> None:
    small = plans(5, "why")
    page, token = service._page(QUERY, small, 3)
    assert [plan.plan_id for plan in page] == ["0", "1", "2"]
    assert paging.decode(QUERY, token, (int, str)) == (2, "2")
    assert service._page(QUERY, small, 5) == ([plan for _, plan in small], "")
    assert service._page(QUERY, [], 5) == ([], "")

    large = plans(3, "x" * (service.PAGE_BYTES_MAX * 2 // 3))
    page, token = service._page(QUERY, large, 100)
    assert [plan.plan_id for plan in page] == ["0"]
    assert paging.decode(QUERY, token, (int, str)) == (0, "0")


def test_one_that_is_larger_than_a_page_comes_alone() -> None:
    huge = plans(2, "x" * (service.PAGE_BYTES_MAX + 1))
    page, token = service._page(QUERY, huge, 100)
    assert len(page) == 1
    assert token
