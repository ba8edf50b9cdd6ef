"""`python -m broker`: from a TOML file to a server that answers, and its end."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.conftest import Federation
from tests.support import catalogue_records as records
from tests.support import processes
from watari import errors, rpc
from watari.v1 import broker_pb2, broker_pb2_grpc

BROKER = "spiffe://hub.example/broker/main"
USER = "spiffe://tokyo.example/user/alice"

CONFIG = """
[broker]
address = "127.0.0.1:{port}"

[broker.identity]
certificate = "{folder}/cert.pem"
key = "{folder}/key.pem"
trust = "{folder}/trust"

[broker.catalogue]
snapshot_age_seconds_max = "5m"

{directories}
"""
DIRECTORIES = """
[[broker.directories]]
address = "127.0.0.1:1"
spiffe_id = "spiffe://hub.example/directory/main"
"""


def configured(federation: Federation, tmp_path: Path, directories: str) -> tuple[Path, int]:
    port = processes.free_port()
    config = tmp_path / "broker.toml"
    folder = federation.folder_of(BROKER)
    config.write_text(CONFIG.format(port=port, folder=folder, directories=directories))
    return config, port


def test_a_broker_process_serves_until_it_is_told_to_stop(
    federation: Federation, tmp_path: Path
) -> None:
    config, port = configured(federation, tmp_path, DIRECTORIES)
    caller, target = federation.party(USER), processes.target(port, BROKER)
    process = processes.Process("broker", config, target, caller)
    process.start()
    try:
        with rpc.connect(caller, target) as channel:
            request = broker_pb2.PlaceRequest(
                request_id=str(uuid.uuid4()),
                requirements=broker_pb2.Requirements(resources=records.resources()),
            )
            with pytest.raises(errors.Unavailable, match="there is no snapshot"):
                rpc.call(broker_pb2_grpc.BrokerServiceStub(channel).Place, request)
    finally:
        status = process.stop()
    assert status == 0, process.log()


def run(config: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "broker", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_settings_in_force_are_shown(federation: Federation, tmp_path: Path) -> None:
    config, _ = configured(federation, tmp_path, DIRECTORIES)
    shown = run(config, "--show-config")
    assert shown.returncode == 0, shown.stderr
    assert "snapshot_age_seconds_max = 300.0" in shown.stdout
    assert "refresh_seconds_min = 2.0" in shown.stdout


@pytest.mark.parametrize("directories", ["", "directories = []\n"])
def test_a_broker_without_a_directory_does_not_start(
    federation: Federation, tmp_path: Path, directories: str
) -> None:
    config, _ = configured(federation, tmp_path, "")
    config.write_text(config.read_text().replace("[broker]\n", f"[broker]\n{directories}"))
    refused = run(config)
    assert refused.returncode == 2
    assert "CONFIG_INVALID" in refused.stderr
    assert "directories" in refused.stderr
