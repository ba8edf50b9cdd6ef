#!/opt/watari/bin/python
"""Asks the server of this container whether it serves: exit status 0 or 1.

It goes by the server's settings and proves itself with the server's own certificate, as its health
service wants it. In the image this is `watari-health`.
"""

import sys
import tomllib
from pathlib import Path

import watari.tls  # noqa: F401 - before grpc

# isort: split
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from watari import rpc
from watari.identity import Identity

SETTINGS_FOLDER = Path("/etc/watari")
SECONDS_MAX = 5.0


def serves(folder: Path) -> bool:
    """Whether the server with the settings file in `folder` answers that it serves.

    Raises ValueError when there is not one settings file, and what reading it raises.
    """
    (path,) = folder.glob("*.toml")
    ((_role, settings),) = tomllib.loads(path.read_text("utf-8")).items()
    files = settings["identity"]
    own = Identity.load(*(folder / files[name] for name in ("certificate", "key", "trust")))
    port = settings["address"].rpartition(":")[2]
    channel = rpc.connect(own, rpc.Target(f"127.0.0.1:{port}", own.spiffe_id))
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=SECONDS_MAX
        )
    except grpc.RpcError as error:
        sys.stderr.write(f"{error.code().name}: {error.details()}\n")
        return False
    finally:
        channel.close()
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if serves(SETTINGS_FOLDER) else 1)
