"""What the command line has to know: table `[client]` of client.toml.

`watari up` writes one for the local federation; one for another federation is written by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from watari import config, errors
from watari.settings import EndpointSettings, IdentitySettings

CONFIG_VARIABLE = "WATARI_CLIENT_CONFIG"
"""Environment variable that names the file."""


@dataclass(frozen=True)
class CloudSettings:
    """A cloud whose manager the user may ask."""

    manager: EndpointSettings
    """Its manager."""

    identity: IdentitySettings
    """The user in that cloud's domain."""


@dataclass(frozen=True)
class ClientSettings:
    """Whom to ask, and as whom."""

    identity: IdentitySettings
    """The user as directory and broker know it."""

    clouds: dict[str, CloudSettings] = field(default_factory=dict)
    """Clouds by id."""

    directory: EndpointSettings | None = None
    """The directory; without one, `cloud` and `offer` have nothing to show."""

    further_directories: tuple[EndpointSettings, ...] = ()
    """Other servers of the same directory, asked in this order while that one does not answer."""

    broker: EndpointSettings | None = None
    """The broker; without one, machines are migrated to a named cloud only."""

    call_seconds_max: float = field(default=15.0, metadata={"min": 0.1})
    """Deadline in seconds of a call: longer than a server's own calls to further servers."""

    estimate_seconds_max: float = field(default=3660.0, metadata={"min": 1.0})
    """Deadline in seconds of an estimate: longer than the managers' own, which reads the disks."""

    watch_seconds_max: float = field(default=3600.0, metadata={"min": 1.0})
    """Deadline in seconds of one watching stream, which is opened again after it."""

    lost_seconds_max: float = field(default=60.0, metadata={"min": 0.0})
    """How long a watched migration's manager may not answer before the command gives up."""


def load(path: Path, environ: Mapping[str, str]) -> ClientSettings:
    """The settings at `path`.

    Raises FailedPrecondition FEDERATION_DOWN when there is no such file, InvalidArgument
    CONFIG_INVALID when it is wrong.
    """
    if not path.exists():
        raise errors.FailedPrecondition(
            "FEDERATION_DOWN",
            f"there is no federation: {path} does not exist",
            hint="`watari up` starts one on this machine; --config or WATARI_CLIENT_CONFIG names "
            "the settings of another",
        )
    # The variable names the file and is no setting in it.
    rest = {name: value for name, value in environ.items() if name != CONFIG_VARIABLE}
    return config.load(ClientSettings, path, rest, "client")
