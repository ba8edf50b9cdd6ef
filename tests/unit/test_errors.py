import ast
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from watari import errors
from watari.v1 import common_pb2

ROOT = Path(__file__).parents[2]
CLASSES = errors.WatariError.__subclasses__()


def _same(one: errors.WatariError, other: errors.WatariError) -> bool:
    return type(one) is type(other) and vars(one) == vars(other)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_the_way_over_a_status_and_over_a_problem(cls):
    error = cls("VM_NOT_FOUND", "no VM web-1", hint="watari vm list", vm="web-1", size=3)
    assert _same(errors.from_status(errors.to_status(error)), error)
    assert _same(errors.from_problem(errors.to_problem(error)), error)


def test_every_code_but_ok_and_unknown_has_exactly_one_class():
    codes = [cls.code for cls in CLASSES]
    assert len(codes) == len(set(codes))
    assert set(codes) == set(grpc.StatusCode) - {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN}


def test_retryability_is_the_class_default_unless_the_raise_says_otherwise():
    assert errors.Unavailable("PEER_UNAVAILABLE", "").retryable
    assert not errors.NotFound("VM_NOT_FOUND", "").retryable
    stubborn = errors.Unavailable("SERVER_UNAVAILABLE", "", retryable=False)
    assert not errors.from_status(errors.to_status(stubborn)).retryable


def test_retry_info_is_attached_exactly_when_the_error_is_retryable():
    for retryable in (True, False):
        status = errors.to_status(errors.Exhausted("QUOTA_EXCEEDED", "", retryable=retryable))
        packed = [detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details]
        assert any(packed) == retryable


def test_a_status_without_our_details_gets_a_reason_from_its_code():
    error = errors.from_status(status_pb2.Status(code=code_pb2.UNAVAILABLE, message="gone"))
    assert (type(error), error.reason, error.message) == (
        errors.Unavailable,
        "PEER_UNAVAILABLE",
        "gone",
    )
    assert errors.from_status(status_pb2.Status(code=999)).reason == "PEER_ERROR"


def test_error_info_of_another_domain_is_not_taken_for_ours():
    status = status_pb2.Status(code=code_pb2.NOT_FOUND, message="x")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="ELSE", domain="other.example"))
    assert errors.from_status(status).reason == "PEER_ERROR"


def test_metadata_of_a_peer_cannot_take_the_place_of_the_errors_own_fields():
    status = errors.to_status(errors.NotFound("VM_NOT_FOUND", "m"))
    info = error_details_pb2.ErrorInfo(reason="VM_NOT_FOUND", domain=errors.ERROR_DOMAIN)
    info.metadata.update({"retryable": "yes", "message": "forged", "self": "x"})
    status.details[0].Pack(info)
    error = errors.from_status(status)
    assert (error.message, error.retryable) == ("m", False)
    assert error.metadata["message"] == "forged"


@given(
    text=st.text(min_size=1).map(lambda part: part * 3000),
    values=st.dictionaries(st.text(max_size=16), st.text(max_size=400), max_size=64),
)
def test_a_status_fits_into_trailers_however_long_its_texts_are(text, values):
    error = errors.Internal("INTERNAL", text, hint=text)
    error.metadata = values
    status = errors.to_status(error)
    assert len(status.message.encode()) <= errors.STATUS_MESSAGE_BYTES_MAX
    assert len(status.SerializeToString()) < 8 * 1024


def test_every_reason_in_the_source_is_in_the_contract():
    known = {
        name.removeprefix("ERROR_REASON_")
        for name in common_pb2.ErrorReason.keys()  # noqa: SIM118
    }
    used = [
        (reason, f"{path.relative_to(ROOT)}:{line}")
        for package in ("agent", "broker", "directory", "manager", "watari")
        for path in (ROOT / package).rglob("*.py")
        if "v1" not in path.parts
        for reason, line in _reasons(ast.parse(path.read_text()))
    ]
    assert used
    assert [place for reason, place in used if reason not in known] == []
    assert set(errors.REASONS_WITHOUT_DETAILS.values()) <= known


def _reasons(tree: ast.AST) -> list[tuple[str, int]]:
    names = {cls.__name__ for cls in CLASSES}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        first = node.args[0]
        if name in names and isinstance(first, ast.Constant) and isinstance(first.value, str):
            found.append((first.value, node.lineno))
    return found
