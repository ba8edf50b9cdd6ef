"""The JSON file of a run: on what it ran, with what, and every repetition."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SCHEMA = 1
PACKAGES = ("blake3", "cryptography", "grpcio", "protobuf", "watari", "zstandard")
TOOLS = {
    "zstd": ("zstd", "--version"),
    "rsync": ("rsync", "--version"),
    "ssh": ("ssh", "-V"),
    "mke2fs": ("mke2fs", "-V"),
    "openssl": ("openssl", "version"),
    "casync": ("casync", "--version"),
    "gzip": ("gzip", "--version"),
    "qemu-img": ("qemu-img", "--version"),
    "strongSwan": ("swanctl", "--version"),
}


def new(parameters: dict[str, Any]) -> dict[str, Any]:
    """The head of a record; `rows` is added to it."""
    return {
        "schema": SCHEMA,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": parameters,
        "machine": machine(),
        "versions": versions(),
        "revision": revision(),
        "rows": {},
    }


def machine() -> dict[str, Any]:
    """Processor, memory, kernel, and how busy it was before."""
    text = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "load_before": os.getloadavg(),
    }


def versions() -> dict[str, str]:
    """Of Python, of the packages and of the tools; a tool that is missing has none."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    for name, command in TOOLS.items():
        with contextlib.suppress(OSError):
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            found[name] = _version(name, (ended.stdout or ended.stderr).splitlines())
    return found


def _version(name: str, lines: list[str]) -> str:
    """The line that names the tool; some complain before. Else the first one."""
    named = [line for line in lines if name.casefold() in line.casefold()]
    return (named or lines or [""])[0]


def revision() -> dict[str, Any]:
    """Of the checkout, and whether it has changes."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}


def save(path: Path, record: dict[str, Any]) -> None:
    """Writes the file whole or not at all, so that it can be written after every row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)
