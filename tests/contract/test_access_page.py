"""docs/access.md shows what the servers enforce, for every method that there is."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from watari import authz

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "access.md").read_text("utf-8")
TOOL = ROOT / "tools" / "access_table.py"
STUBS = sorted((ROOT / "watari" / "v1").glob("*_pb2.py"))


def test_the_tables_are_what_the_table_in_the_code_says() -> None:
    checked = subprocess.run([sys.executable, TOOL, "--check"], cwd=ROOT, check=False)
    assert checked.returncode == 0, "run `make access`: docs/access.md is stale"


def test_every_service_of_the_contract_has_a_table_with_all_its_methods() -> None:
    modules = [import_module(f"watari.v1.{path.stem}") for path in STUBS]
    services = [each for one in modules for each in one.DESCRIPTOR.services_by_name.values()]
    assert len(services) >= 10
    for service in services:
        _, _, below = PAGE.partition(f"### {service.name}\n")
        listed = re.findall(r"^\| `(\w+)` \|", below.partition("### ")[0], re.MULTILINE)
        assert listed == [method.name for method in service.methods]


def test_every_row_of_the_code_is_on_the_page_once() -> None:
    assert len(re.findall(r"^\| `\w+` \|", PAGE, re.MULTILINE)) == len(authz.TABLE)


def test_a_mark_stands_where_the_code_allows_a_call() -> None:
    lines = PAGE.partition("### ManagerService\n")[2].splitlines()
    header = [cell.strip() for cell in lines[1].strip("|").split("|")]
    (row,) = (line for line in lines if line.startswith("| `GetVm`"))
    marks = dict(zip(header, (cell.strip() for cell in row.strip("|").split("|")), strict=True))
    assert [name for name, mark in marks.items() if mark == "✓"] == [
        "own user",
        "foreign user",
        "own operator",
        "own broker",
        "foreign broker",
    ]
