"""The `watari` command as a user runs it: in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND_SECONDS_MAX = 120.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one value on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The one error object on stderr."""
        error: dict[str, Any] = json.loads(self.err)["error"]
        return error


@dataclass(frozen=True)
class CommandLine:
    """Runs commands on the local federation of one state folder."""

    state: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, code: int | None = 0) -> Ended:
        """Runs a command to its end; `code` is the exit code that it must have."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=COMMAND_SECONDS_MAX)
        assert code is None or process.returncode == code, (arguments, process.returncode, out, err)
        assert "Traceback" not in err
        return Ended(process.returncode, out, err)

    def json(self, *arguments: str) -> Any:
        """What a command prints with `-o json`; it must end well and say nothing else."""
        ended = self.run(*arguments, "-o", "json")
        assert not ended.err
        return ended.json

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Starts a command and does not wait."""
        return subprocess.Popen(
            [sys.executable, "-m", "watari.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "WATARI_STATE_DIR": str(self.state), **self.environ},
        )
