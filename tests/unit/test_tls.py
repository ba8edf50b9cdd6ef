"""Every program speaks TLS 1.3 only: gRPC is told before it is imported."""

import os
import subprocess
import sys

import pytest

from watari import errors, tls
from watari.rpc import settings

PROGRAMS = [
    "agent.__main__",
    "broker.__main__",
    "directory.__main__",
    "manager.__main__",
    "watari.cli.main",
    "watari.rpc",
    "bench.federation",
    "compose.health",
]


def said(program: str) -> str:
    """What a new interpreter prints that was told nothing by its environment."""
    environ = {name: value for name, value in os.environ.items() if name != tls.VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("module", PROGRAMS)
def test_a_program_tells_grpc_in_time(module):
    assert said(f"import {module}\nfrom watari import tls\nprint(tls.IN_FORCE)") == "True"


def test_a_program_that_tells_it_too_late_makes_no_connection():
    program = "import grpc\nfrom watari import tls\nprint(tls.IN_FORCE)"
    assert said(program) == "False"


def test_where_it_is_too_late_everything_is_refused(monkeypatch):
    monkeypatch.setattr(tls, "IN_FORCE", False)
    with pytest.raises(errors.FailedPrecondition, match="CONFIG_INVALID"):
        settings.require_tls_1_3()
