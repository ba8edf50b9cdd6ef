"""The suite keeps its own rules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "text",
    [
        "import pytest\ndef test_it(): pytest.skip('no time')\n",
        "import pytest\n@pytest.mark.skip(reason='no time')\ndef test_it(): pass\n",
        "import pytest\npytest.importorskip('no_such_module')\ndef test_it(): pass\n",
    ],
    ids=["call", "mark", "module"],
)
@pytest.mark.parametrize("ci", ["true", ""])
def test_a_skip_is_a_failure_in_ci_and_there_only(tmp_path: Path, text: str, ci: str) -> None:
    file = tmp_path / "test_skips.py"
    file.write_text(text + "def test_other(): pass\n")
    arguments = ["-q", "-p", "tests.conftest", "-c", os.devnull, "--rootdir", tmp_path, file]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "skipped" in ended.stdout
    assert (ended.returncode in (0, 5)) == (not ci), ended.stdout
