"""The exit codes, and which error ends a command with which.

The codes are part of the contract with scripts: they never change their meaning.
"""

import enum

import grpc

from watari import errors


class Exit(enum.IntEnum):
    """How a command ended."""

    OK = 0
    """Done."""
    FAILED = 1
    """The operation was carried out and failed."""
    USAGE = 2
    """The command or a value on it is wrong: it would fail in every state of the federation."""
    NOT_FOUND = 3
    """The machine, cloud, migration or file does not exist."""
    REFUSED = 4
    """A precondition, a conflict or the access table stands against it."""
    NO_ROOM = 5
    """No cloud fits, or the destination has no room or quota left."""
    UNAVAILABLE = 6
    """A service does not answer, or the federation is not running."""
    CANCELLED = 7
    """The migration was cancelled; the machine is where it was."""
    INTERRUPTED = 130
    """Ctrl-C. A migration that was being watched goes on."""


_MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "the operation failed",
    Exit.USAGE: "usage or bad input",
    Exit.NOT_FOUND: "not found",
    Exit.REFUSED: "refused: precondition, conflict or permission",
    Exit.NO_ROOM: "no room, or no cloud fits",
    Exit.UNAVAILABLE: "a service is unavailable, or the federation is not running",
    Exit.CANCELLED: "cancelled",
    Exit.INTERRUPTED: "interrupted",
}

_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: Exit.USAGE,
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: Exit.REFUSED,
    grpc.StatusCode.ABORTED: Exit.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: Exit.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: Exit.REFUSED,
    grpc.StatusCode.UNAUTHENTICATED: Exit.REFUSED,
    grpc.StatusCode.UNIMPLEMENTED: Exit.REFUSED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exit.NO_ROOM,
    grpc.StatusCode.UNAVAILABLE: Exit.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Exit.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: Exit.CANCELLED,
}

_BY_REASON = {
    # gRPC calls these a failed precondition; a script wants to tell them from a refusal.
    "NO_CANDIDATE": Exit.NO_ROOM,
    "FEDERATION_DOWN": Exit.UNAVAILABLE,
    "START_FAILED": Exit.UNAVAILABLE,
}


class CommandFailed(Exception):
    """Ends a command with a code of its own, where the error alone would give another."""

    def __init__(self, error: errors.WatariError, code: Exit, title: str = "Error") -> None:
        super().__init__(str(error))
        self.error = error
        self.code = code
        self.title = title
        """What stands before the message."""


def exit_of(error: errors.WatariError) -> Exit:
    """The exit code of a command that ends with this error."""
    return _BY_REASON.get(error.reason, _BY_CODE.get(error.code, Exit.FAILED))


def epilog(*codes: Exit) -> str:
    """The part on exit codes in a command's help. OK, FAILED and USAGE are always there."""
    shown = sorted({Exit.OK, Exit.FAILED, Exit.USAGE, *codes})
    return "\n".join(["Exit codes", *(f"{code:>5d}  {_MEANINGS[code]}" for code in shown)])


CALL_EPILOG = epilog(Exit.NOT_FOUND, Exit.REFUSED, Exit.UNAVAILABLE)
"""Of commands that ask servers for something that may not exist."""

MIGRATE_EPILOG = epilog(*Exit)
"""Of commands that may see a migration through to its end."""
