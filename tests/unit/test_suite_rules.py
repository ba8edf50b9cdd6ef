"""The suite keeps its own rules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


CALL = "import pytest\ndef test_it(): pytest.skip('no time')\n"
MARK = "import pytest\n@pytest.mark.skip(reason='no time')\ndef test_it(): pass\n"
MODULE = "import pytest\npytest.importorskip('no_such_module')\ndef test_it(): pass\n"


@pytest.mark.parametrize("text", [CALL, MARK, MODULE], ids=["call", "mark", "module"])
@pytest.mark.parametrize("ci", ["true", ""])
def test_a_skip_is_a_failure_in_ci_and_there_only(tmp_path: Path, text: str, ci: str) -> None:
    ended = run(tmp_path, text, ci)
    assert "skipped" in ended.stdout
    assert (ended.returncode in (0, 5)) == (not ci), ended.stdout


@pytest.mark.parametrize("text", [CALL, MODULE], ids=["call", "module"])
def test_a_skip_in_a_worker_fails_the_whole_run(tmp_path: Path, text: str) -> None:
    ended = run(tmp_path, text, "true", "-n", "2")
    assert "skipped in CI" in ended.stdout
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout


def run(folder: Path, text: str, ci: str, *further: str) -> "subprocess.CompletedProcess[str]":
    """Runs pytest over a file of that text and one more test, with the hooks of this suite."""
    file = folder / "test_skips.py"
    file.write_text(text + "def test_other(): pass\n")
    arguments = ["-q", "-p", "tests.conftest", "-c", os.devnull, "--rootdir", folder, *further]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, file],
        cwd=ROOT,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
