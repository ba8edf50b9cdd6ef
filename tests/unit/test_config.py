import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watari import config, configshow, errors


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Peer:
    address: str
    """host:port."""

    weight: float = 1.0
    """Share."""


@dataclass(frozen=True)
class Limits:
    window_bytes: int = field(default=1024, metadata={"min": 1, "max": 2**40})
    """Bytes under way: as much as one RTT needs."""

    ttl_seconds_max: float = 30.0
    """Seconds until it is forgotten."""


@dataclass(frozen=True)
class Settings:
    name: str = "main"
    """Name of the service."""

    data: Path = Path("/var/lib/watari")
    """Where state lives."""

    workers: int = field(default=4, metadata={"min": 1, "max": 64})
    """Threads."""

    ratio: float | None = None
    """Share kept back; none when not set."""

    open: bool = False
    """Whether strangers may come in."""

    mode: Literal["cold", "warm"] = "cold"
    """How machines move."""

    colour: Colour = Colour.RED
    """Paint."""

    regions: tuple[str, ...] = ()
    """Regions that it has hosts in."""

    api_token: str = field(default="", metadata={"secret": True})
    """What opens the door."""

    limits: Limits = field(default_factory=Limits)
    """Bounds of the transfer."""

    peers: dict[str, Peer] = field(default_factory=dict)
    """Peers by name."""

    fallbacks: tuple[Peer, ...] = ()
    """Peers to try in turn."""


@dataclass(frozen=True)
class Required:
    address: str
    """host:port."""

    def __post_init__(self) -> None:
        if ":" not in self.address:
            raise ValueError("address has no port")


def load(tmp_path, text="", environ=None, cls=Settings, section="service"):
    path = tmp_path / "watari.toml"
    path.write_text(text)
    return config.load(cls, path, environ or {}, section)


def refused(tmp_path, text="", environ=None, cls=Settings) -> errors.InvalidArgument:
    with pytest.raises(errors.InvalidArgument) as caught:
        load(tmp_path, text, environ, cls)
    assert caught.value.reason == "CONFIG_INVALID"
    assert caught.value.hint
    return caught.value


def test_without_a_file_the_defaults_hold():
    assert config.load(Settings, None, {}, "service") == Settings()


def test_every_supported_type_is_read_from_the_file(tmp_path):
    settings = load(
        tmp_path,
        """
        [service]
        name = "tokyo"
        data = "state"
        workers = 8
        ratio = 1
        open = true
        mode = "warm"
        colour = "blue"
        regions = ["jp-east", "jp-west"]
        limits = {window_bytes = "4GiB", ttl_seconds_max = "2h"}
        fallbacks = [{address = "c:1"}]
        [service.peers.osaka]
        address = "b:1"
        weight = 0.5
        [other]
        ignored = true
        """,
    )
    assert settings == Settings(
        name="tokyo",
        data=tmp_path / "state",
        workers=8,
        ratio=1.0,
        open=True,
        mode="warm",
        colour=Colour.BLUE,
        regions=("jp-east", "jp-west"),
        limits=Limits(4 * 1024**3, 7200.0),
        peers={"osaka": Peer("b:1", 0.5)},
        fallbacks=(Peer("c:1"),),
    )


def test_the_environment_overrides_the_file_down_to_nested_fields(tmp_path):
    settings = load(
        tmp_path,
        '[service]\nworkers = 8\nlimits = {window_bytes = 5}\npeers = {osaka = {address = "b:1"}}',
        {
            "WATARI_SERVICE_WORKERS": "16",
            "WATARI_SERVICE_OPEN": "yes",
            "WATARI_SERVICE_RATIO": "0.25",
            "WATARI_SERVICE_REGIONS": "a, b",
            "WATARI_SERVICE_LIMITS__TTL_SECONDS_MAX": "1m",
            "WATARI_SERVICE_PEERS__OSAKA__WEIGHT": "2",
            "WATARI_OTHER_WORKERS": "99",
        },
    )
    assert (settings.workers, settings.open, settings.ratio) == (16, True, 0.25)
    assert settings.regions == ("a", "b")
    assert settings.limits == Limits(5, 60)
    assert settings.peers == {"osaka": Peer("b:1", 2)}


def test_an_empty_variable_unsets_an_optional_field(tmp_path):
    assert load(tmp_path, "[service]\nratio = 1", {"WATARI_SERVICE_RATIO": ""}).ratio is None


def test_an_unknown_key_is_refused_with_the_key_that_was_meant(tmp_path):
    error = refused(tmp_path, "[service]\nworker = 8")
    assert "watari.toml" in error.message
    assert error.metadata["key"] == "service.worker"
    assert "'workers'" in error.hint


def test_an_unknown_variable_is_refused_by_its_name(tmp_path):
    error = refused(tmp_path, environ={"WATARI_SERVICE_LIMITS__WINDOW_BYTE": "1"})
    assert "WATARI_SERVICE_LIMITS__WINDOW_BYTE" in error.message
    assert "'window_bytes'" in error.hint


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[service]\nworkers = 0", "service.workers"),
        ("[service]\nworkers = 65", "service.workers"),
        ("[service]\nworkers = 1.5", "service.workers"),
        ("[service]\nworkers = true", "service.workers"),
        ('[service]\nworkers = "8"', "service.workers"),
        ("[service]\nratio = nan", "service.ratio"),
        ("[service]\nopen = 1", "service.open"),
        ("[service]\nname = 1", "service.name"),
        ('[service]\nmode = "hot"', "service.mode"),
        ('[service]\ncolour = "green"', "service.colour"),
        ('[service]\nregions = "a"', "service.regions"),
        ("[service]\nregions = [1]", "service.regions.0"),
        ('[service]\nlimits = {window_bytes = "4 apples"}', "service.limits.window_bytes"),
        ("[service]\nlimits = 4", "service.limits"),
        ("[service]\npeers = {osaka = {}}", "service.peers.osaka.address"),
        ("[service", "service"),
        ("workers = 8", "service"),
        ("[servise]\nworkers = 8", "service"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(tmp_path, text, key):
    assert refused(tmp_path, text).metadata["key"] == key


@pytest.mark.parametrize("value", ["x", "1.5", "", "inf"])
def test_a_wrong_number_in_a_variable_is_refused_by_the_variable(tmp_path, value):
    error = refused(tmp_path, environ={"WATARI_SERVICE_WORKERS": value})
    assert error.metadata["source"] == "WATARI_SERVICE_WORKERS"


def test_a_missing_field_and_a_failed_check_are_refused(tmp_path):
    assert refused(tmp_path, cls=Required).metadata["key"] == "service.address"
    error = refused(tmp_path, '[service]\naddress = "x"', cls=Required)
    assert "no port" in error.message


def test_a_missing_file_is_refused_by_its_name(tmp_path):
    with pytest.raises(errors.InvalidArgument, match=r"absent\.toml"):
        config.load(Settings, tmp_path / "absent.toml", {}, "service")


def test_a_file_beyond_the_limit_is_refused(tmp_path):
    assert "too large" in refused(tmp_path, "#" * (config.FILE_BYTES_MAX + 1)).message


def test_settings_are_shown_with_their_docstrings_and_without_secrets():
    shown = config.show(Settings(api_token="sesame"), "service")  # noqa: S106
    assert "# Bytes under way: as much as one RTT needs.\nwindow_bytes = 1024" in shown
    assert "[service.limits]" in shown
    assert "# ratio is not set" in shown
    assert "sesame" not in shown


@given(
    name=st.text(),
    ratio=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    regions=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    peers=st.dictionaries(st.text(max_size=8), st.builds(Peer, st.text(), st.floats(0, 1e9))),
    fallbacks=st.lists(st.builds(Peer, st.text()), max_size=3).map(tuple),
)
def test_what_is_shown_loads_as_the_same_settings(
    tmp_path_factory, name, ratio, regions, peers, fallbacks
):
    settings = Settings(name=name, ratio=ratio, regions=regions, peers=peers, fallbacks=fallbacks)
    path = tmp_path_factory.getbasetemp() / "shown.toml"
    path.write_text(
        config.show(settings, "service").replace(f'token = "{configshow.MASK}"', 'token = ""'),
        "utf-8",
    )
    assert config.load(Settings, path, {}, "service") == settings
