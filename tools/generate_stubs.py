"""Generates watari/v1 from protos/: stubs, type stubs, gRPC stubs. Usage: generate_stubs.py [OUT].

The result is committed; a test regenerates it into a temporary folder and compares.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"


def generate(out: Path) -> None:
    """Writes `out`/watari/v1/*_pb2*.py[i]; raises RuntimeError when protoc refuses."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    well_known = str(resources.files("grpc_tools") / "_proto")
    plugins = [f"--{kind}_out={out}" for kind in ("python", "mypy", "grpc_python")]
    # Concrete: a servicer leaves out the methods that its release does not serve.
    plugins.append(f"--mypy_grpc_out=generate_concrete_servicer_stubs:{out}")
    code = protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *plugins, *sources])
    if code != 0:
        raise RuntimeError(f"protoc ended with {code}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
