"""A quote that is read from a file, and what is refused before anybody is asked."""

from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from watari import errors
from watari.cli.conditions import QUOTE_BYTES_MAX, Conditions, read_quote, write_quote
from watari.cli.exits import Exit
from watari.v1 import common_pb2, manager_pb2

QUOTE = common_pb2.SignedDocument(payload=b"\x00\xff", purpose="quote", signature=b"s")


def test_conditions_go_into_the_request(tmp_path: Path) -> None:
    file = tmp_path / "quote.json"
    write_quote(file, QUOTE)
    asked = Conditions(file, ["cpu:avx2"], ["rack:a"]).into(manager_pb2.MigrateVmRequest())
    assert asked.quote == QUOTE
    assert (list(asked.required_traits), list(asked.forbidden_traits)) == (["cpu:avx2"], ["rack:a"])
    assert not Conditions().into(manager_pb2.MigrateVmRequest()).HasField("quote")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no quote", "it is none"),
        (b"\xff", "it is none"),
        (b" " * (QUOTE_BYTES_MAX + 1), "too large"),
    ],
)
def test_a_file_that_is_no_quote_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "quote.json"
    file.write_bytes(content)
    with pytest.raises(errors.InvalidArgument, match=problem):
        read_quote(file)
    with pytest.raises(errors.InvalidArgument, match="No such file"):
        read_quote(tmp_path / "absent")


@pytest.mark.parametrize("other", [["--place"], ["--to", "osaka", "--dry-run"]])
def test_conditions_are_for_a_cloud_that_is_named(tmp_path: Path, other: list[str]) -> None:
    ended = CommandLine(tmp_path, {}).run(
        "migrate", "web-1", *other, "--require-trait", "cpu:avx2", code=None
    )
    assert ended.code == Exit.USAGE
    assert "named cloud" in ended.err
