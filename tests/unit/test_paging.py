"""watari.paging: tokens come back as they were made, and only to the query that they belong to."""

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watari import errors, paging
from watari.v1 import directory_pb2, manager_pb2

QUERY = paging.fingerprint(directory_pb2.QueryRecordsRequest(filter='region = "jp-east"'))
SHAPE = (int, str, str)
POSITIONS = st.tuples(st.integers(0, paging.INTEGER_MAX), st.text(max_size=64), st.text(max_size=9))


def forge(query: bytes, body: bytes) -> str:
    """A token with any body whose checksum is right, as a peer that knows our source can make."""
    checksum = hashlib.blake2b(body, key=query, digest_size=12).digest()
    return base64.urlsafe_b64encode(b"\x01" + checksum + body).decode().rstrip("=")


@given(POSITIONS)
def test_a_position_survives_its_token(position: tuple[int, str, str]) -> None:
    assert paging.decode(QUERY, paging.encode(QUERY, position), SHAPE) == position


def test_no_token_is_the_first_page() -> None:
    assert paging.decode(QUERY, "", SHAPE) is None


@given(POSITIONS, st.data())
def test_a_token_with_one_character_changed_is_refused(
    position: tuple[int, str, str], data: st.DataObject
) -> None:
    token = paging.encode(QUERY, position)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda character: character != token[at]))
    with pytest.raises(errors.InvalidArgument, match="PAGE_TOKEN_INVALID"):
        paging.decode(QUERY, token[:at] + other + token[at + 1 :], SHAPE)


@given(st.text(min_size=1))
def test_arbitrary_text_is_refused_as_a_token(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="PAGE_TOKEN_INVALID"):
        paging.decode(QUERY, text, SHAPE)


@pytest.mark.parametrize(
    "other",
    [
        directory_pb2.QueryRecordsRequest(filter='region = "jp-west"'),
        directory_pb2.QueryRecordsRequest(filter='region = "jp-east"', fresh_only=True),
        manager_pb2.ListVmsRequest(),
    ],
)
def test_a_token_of_another_query_is_refused(
    other: directory_pb2.QueryRecordsRequest | manager_pb2.ListVmsRequest,
) -> None:
    token = paging.encode(QUERY, (7, "tokyo", "main"))
    with pytest.raises(errors.InvalidArgument, match="another query"):
        paging.decode(paging.fingerprint(other), token, SHAPE)


def test_page_size_and_token_are_no_part_of_the_query() -> None:
    request = directory_pb2.QueryRecordsRequest(filter='region = "jp-east"', page_size=7)
    request.page_token = paging.encode(QUERY, (1,))
    assert paging.fingerprint(request) == QUERY
    assert request.page_size == 7


@pytest.mark.parametrize(
    "position", [[1, "a"], ["1", "a", "b"], [True, "a", "b"], [1.0, "a", "b"], {"a": 1}, 5, None]
)
def test_a_token_of_another_shape_is_refused(position: object) -> None:
    with pytest.raises(errors.InvalidArgument, match="PAGE_TOKEN_INVALID"):
        paging.decode(QUERY, forge(QUERY, json.dumps(position).encode()), SHAPE)


@pytest.mark.parametrize(
    "body", [b"", b"[", b"\xff", b"[-1]", b"[9223372036854775808]", b"[" * 1400, b"[NaN]"]
)
def test_a_forged_body_is_refused_not_trusted(body: bytes) -> None:
    with pytest.raises(errors.InvalidArgument, match="PAGE_TOKEN_INVALID"):
        paging.decode(QUERY, forge(QUERY, body), (int,))


def test_an_overlong_token_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(errors.InvalidArgument, match="has 2049 characters"):
        paging.decode(QUERY, "A" * (paging.TOKEN_CHARS_MAX + 1), SHAPE)


@pytest.mark.parametrize(("requested", "size"), [(0, 100), (1, 1), (1000, 1000)])
def test_a_page_has_the_default_size_unless_asked(requested: int, size: int) -> None:
    assert paging.page_size(requested) == size


@pytest.mark.parametrize("requested", [1001, 2**32 - 1, -1])
def test_a_page_size_out_of_bounds_is_refused(requested: int) -> None:
    with pytest.raises(errors.InvalidArgument, match="INVALID_FIELD: page_size"):
        paging.page_size(requested)
