"""watari.cli.exits: the exit codes that scripts rely on."""

import grpc
import pytest

from watari import errors
from watari.cli import exits
from watari.cli.exits import Exit


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("INVALID_FIELD", ""), Exit.USAGE),
        (errors.NotFound("VM_NOT_FOUND", ""), Exit.NOT_FOUND),
        (errors.FailedPrecondition("VM_BUSY", ""), Exit.REFUSED),
        (errors.AlreadyExists("ID_REUSED", ""), Exit.REFUSED),
        (errors.Conflict("GENERATION_CONFLICT", ""), Exit.REFUSED),
        (errors.Denied("NOT_ALLOWED", ""), Exit.REFUSED),
        (errors.Exhausted("INSUFFICIENT_CAPACITY", ""), Exit.NO_ROOM),
        (errors.FailedPrecondition("NO_CANDIDATE", ""), Exit.NO_ROOM),
        (errors.Unavailable("PEER_UNAVAILABLE", ""), Exit.UNAVAILABLE),
        (errors.DeadlineExceeded("DEADLINE_EXCEEDED", ""), Exit.UNAVAILABLE),
        (errors.FailedPrecondition("FEDERATION_DOWN", ""), Exit.UNAVAILABLE),
        (errors.FailedPrecondition("START_FAILED", ""), Exit.UNAVAILABLE),
        (errors.Cancelled("CANCELLED", ""), Exit.CANCELLED),
        (errors.Internal("INTERNAL", ""), Exit.FAILED),
        (errors.DataLoss("DIGEST_MISMATCH", ""), Exit.FAILED),
    ],
)
def test_an_error_ends_a_command_with_its_documented_code(
    error: errors.WatariError, code: Exit
) -> None:
    assert exits.exit_of(error) is code


def test_the_codes_never_change() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "REFUSED": 4,
        "NO_ROOM": 5,
        "UNAVAILABLE": 6,
        "CANCELLED": 7,
        "INTERRUPTED": 130,
    }


def test_no_error_ends_a_command_with_success() -> None:
    for cls in errors.WatariError.__subclasses__():
        assert cls.code is not grpc.StatusCode.OK
        assert exits.exit_of(cls("INTERNAL", "")) is not Exit.OK


def test_the_help_of_a_command_names_its_codes_in_order() -> None:
    lines = exits.epilog(Exit.UNAVAILABLE, Exit.NOT_FOUND).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2", "3", "6"]
