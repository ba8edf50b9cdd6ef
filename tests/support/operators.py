"""The command line as an operator runs it at clouds of this process."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.clouds import Cloud
from watari.cli import main


def command_of(
    config: Path, capsys: pytest.CaptureFixture[str], domain: str, clouds: Sequence[Cloud]
) -> Callable[..., str]:
    """Runs commands at clouds as a provider's operator; what they print, or their errors."""
    text = ""
    for cloud in clouds:
        operator = f"spiffe://{domain}/operator/main"
        cloud.federation.party(operator)
        keys = cloud.federation.folder_of(operator)
        own = (
            f'certificate = "{keys / "cert.pem"}"\nkey = "{keys / "key.pem"}"\n'
            f'trust = "{keys / "trust"}"\n'
        )
        text += "" if text else f"[client.identity]\n{own}"
        text += (
            f"[client.clouds.{cloud.cloud_id}.identity]\n{own}"
            f'[client.clouds.{cloud.cloud_id}.manager]\naddress = "{cloud.endpoint.address}"\n'
            f'spiffe_id = "{cloud.endpoint.spiffe_id}"\n'
        )
    config.write_text(text)

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        ended = main.main([*arguments, "--config", str(config)])
        printed = capsys.readouterr()
        assert ended == code, printed.err
        return printed.err if code else printed.out

    return run
