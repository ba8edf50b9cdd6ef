"""The contract is linted, stays compatible, and its committed stubs are what it generates."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sys.executable).with_name("buf")
BASELINE = ROOT / "protos" / "released.binpb"


def buf(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs buf in a folder that has buf.yaml and protos/."""
    return subprocess.run(
        [BUF, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The contract, to be changed."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def test_the_committed_stubs_are_what_the_contract_generates(tmp_path: Path) -> None:
    environ = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    command = [sys.executable, ROOT / "tools" / "generate_stubs.py", tmp_path]
    subprocess.run(command, check=True, env=environ, capture_output=True)
    generated = sorted((tmp_path / "watari" / "v1").iterdir())
    committed = sorted(p for p in (ROOT / "watari" / "v1").iterdir() if p.suffix in {".py", ".pyi"})
    assert [path.name for path in generated] == [path.name for path in committed]
    for fresh, kept in zip(generated, committed, strict=True):
        assert fresh.read_text() == kept.read_text(), f"run `make protos`: {kept.name} is stale"


def test_the_contract_has_no_lint_and_breaks_nobody() -> None:
    assert buf(ROOT, "lint").stdout == ""
    assert buf(ROOT, "breaking", "--against", str(BASELINE)).stdout == ""


def test_a_field_without_a_comment_is_noticed(copy: Path) -> None:
    proto = copy / "protos" / "watari" / "v1" / "common.proto"
    text = proto.read_text()
    proto.write_text(text.replace("  // Whole units.\n", ""))
    assert "comment" in buf(copy, "lint").stdout


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  int64 units = 2;", "  int64 units = 9;"),
        ("  int64 units = 2;", "  string units = 2;"),
        ("ERROR_REASON_VM_NOT_FOUND = 71", "ERROR_REASON_VM_MISSING = 71"),
    ],
)
def test_a_breaking_change_is_noticed(copy: Path, before: str, after: str) -> None:
    proto = copy / "protos" / "watari" / "v1" / "common.proto"
    text = proto.read_text()
    assert before in text
    proto.write_text(text.replace(before, after))
    result = buf(copy, "breaking", "--against", str(BASELINE))
    assert result.returncode != 0
    assert "common.proto" in result.stdout
