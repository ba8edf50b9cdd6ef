"""`watari audit` against the managers of two real clouds, as their operator."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support.clouds import VM, Cloud
from watari import audit
from watari.cli import audit_entries, main
from watari.cli.exits import Exit

Clouds = tuple[Cloud, Cloud]


class Watari:
    """The command, in this process."""

    def __init__(self, clouds: Clouds, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = folder / "client.toml"
        self.capsys = capsys
        tables = [_identity("client.identity", clouds[0], "admin")]
        for cloud in clouds:
            endpoint = cloud.endpoint
            tables.append(
                f"[client.clouds.{cloud.cloud_id}.manager]\n"
                f'address = "{endpoint.address}"\nspiffe_id = "{endpoint.spiffe_id}"\n'
                + _identity(f"client.clouds.{cloud.cloud_id}.identity", cloud, "admin")
            )
        self.config.write_text("\n".join(tables))

    def __call__(self, *arguments: str, code: int = Exit.OK) -> tuple[str, str]:
        self.capsys.readouterr()
        ended = main.main(["audit", *arguments, "--config", str(self.config)])
        out, err = self.capsys.readouterr()
        assert ended == code, (arguments, out, err)
        return out, err

    def json(self, *arguments: str) -> Any:
        """What it prints for a program."""
        return json.loads(self(*arguments, "-o", "json")[0])

    def fault(self, *arguments: str) -> tuple[str, str]:
        """What it finds to be wrong, for a program and for people."""
        _, err = self(*arguments, "-o", "json", code=Exit.FAILED)
        error = json.loads(err)["error"]
        assert error["reason"] == "AUDIT_CHAIN_BROKEN"
        _, said = self(*arguments, code=Exit.FAILED)
        assert error["message"] in said.replace("\n", " ")
        return error["metadata"]["fault"], error["metadata"]["sequence"]


def _identity(table: str, cloud: Cloud, name: str) -> str:
    keys = cloud.federation.folder_of(f"spiffe://{cloud.domain}/operator/{name}")
    return (
        f'[{table}]\ncertificate = "{keys / "cert.pem"}"\nkey = "{keys / "key.pem"}"\n'
        f'trust = "{keys / "trust"}"\n'
    )


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The servers are in this process: what they log must not stand among what commands print."""
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=io.StringIO()))
    yield
    structlog.reset_defaults()


@pytest.fixture
def watari(clouds: Clouds, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Watari:
    """The command, after a migration."""
    tokyo, _ = clouds
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
    return Watari(clouds, tmp_path, capsys)


def test_a_log_that_is_whole_is_said_to_be_and_what_to_keep_of_it(watari, clouds):
    last = clouds[0].audit()[-1]
    out, err = watari("verify", "--cloud", "tokyo")
    assert "8, unbroken" in out
    assert last.hash.hex() in out
    assert "cut off" in err
    (found,) = watari.json("verify", "--cloud", "tokyo")
    assert found["log"] == "tokyo"
    assert (found["entries"], found["last_sequence"]) == (8, 8)
    assert found["last_hash"] == last.hash.hex()
    assert found["first_at"] < found["last_at"]


def test_all_clouds_are_verified_unless_one_is_named(watari):
    assert [found["log"] for found in watari.json("verify")] == ["osaka", "tokyo"]
    _, err = watari("verify", "--last-sequence", "3", code=Exit.USAGE)
    assert "one of osaka, tokyo" in err


def test_an_export_is_verified_without_its_manager(watari, clouds, tmp_path):
    file = tmp_path / "tokyo.jsonl"
    told = watari.json("export", str(file), "--cloud", "tokyo")
    assert told["last_sequence"] == 8
    assert list(audit_entries.read_file(file)) == clouds[0].audit()
    for cloud in clouds:
        cloud.stop()
    (found,) = watari.json("verify", "--file", str(file))
    assert (found["entries"], found["last_hash"]) == (8, told["last_hash"])
    said, _ = watari("verify", "--file", str(file), "--last-hash", told["last_hash"])
    assert "8, unbroken" in said


def test_an_export_to_stdout_is_the_lines_and_nothing_else(watari, tmp_path):
    file = tmp_path / "tokyo.jsonl"
    watari("export", str(file), "--cloud", "tokyo")
    for arguments in (("export", "-"), ("export",)):
        out, err = watari(*arguments, "--cloud", "tokyo")
        assert (out, err) == (file.read_text(), "")
        assert out.isascii()


def test_an_export_never_writes_over_a_file_and_needs_one_cloud(watari, tmp_path):
    file = tmp_path / "kept"
    file.write_text("precious")
    watari("export", str(file), "--cloud", "tokyo", code=Exit.REFUSED)
    assert file.read_text() == "precious"
    watari("export", str(tmp_path / "new"), code=Exit.USAGE)
    assert not (tmp_path / "new").exists()


def exported(watari, tmp_path, change) -> tuple[str, ...]:
    """The arguments that verify an export of which lines were changed."""
    file = tmp_path / "exported"
    watari("export", str(file), "--cloud", "tokyo")
    lines = file.read_text().splitlines(keepends=True)
    change(lines)
    file.write_text("".join(lines))
    return "verify", "--file", str(file)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: lines.__setitem__(2, lines[2].replace("done", "refused")), ("altered", "3")),
        (lambda lines: lines.__setitem__(3, lines[3].replace("Z", "+00:00")), ("altered", "4")),
        (lambda lines: lines.__setitem__(3, '{"more": 1, ' + lines[3][1:]), ("altered", "4")),
        (lambda lines: lines.__setitem__(2, "[]\n"), ("altered", "3")),
        (lambda lines: lines.__setitem__(2, "\n"), ("altered", "3")),
        (lambda lines: lines.__setitem__(2, "x" * 200_000 + "\n"), ("altered", "3")),
        (lambda lines: lines.__setitem__(7, lines[7][:-30]), ("altered", "8")),
        (lambda lines: lines.__delitem__(2), ("missing", "3")),
        (lambda lines: lines.reverse(), ("missing", "1")),
        (lambda lines: lines.insert(3, lines[2]), ("out_of_order", "4")),
    ],
)
def test_a_file_that_was_touched_is_found_out(watari, tmp_path, change, fault):
    assert watari.fault(*exported(watari, tmp_path, change)) == fault


def test_a_file_that_was_cut_off_is_found_with_what_was_kept(watari, clouds, tmp_path):
    arguments = exported(watari, tmp_path, lambda lines: lines.__delitem__(slice(5, None)))
    watari(*arguments)
    last = clouds[0].audit()[-1]
    for kept in (
        ("--last-sequence", "8"),
        ("--last-hash", last.hash.hex()),
        ("--last-sequence", "8", "--last-hash", last.hash.hex()),
    ):
        assert watari.fault(*arguments, *kept) == ("cut_off", "6")


def test_a_database_that_was_touched_is_found_out(watari, clouds):
    last = clouds[0].audit()[-1]
    with clouds[0].database() as database:
        database.execute("DROP TRIGGER audit_entries_no_delete")
        database.execute("DELETE FROM audit_entries WHERE sequence > 6")
    watari("verify", "--cloud", "tokyo")
    kept = ("--last-sequence", "8", "--last-hash", last.hash.hex())
    assert watari.fault("verify", "--cloud", "tokyo", *kept) == ("cut_off", "7")
    with clouds[0].database() as database:
        database.execute("DELETE FROM audit_entries WHERE sequence = 2")
    assert watari.fault("verify", "--cloud", "tokyo") == ("missing", "2")


def test_a_manager_that_does_not_list_what_it_says_it_has_is_found_out(watari, monkeypatch):
    whole = audit_entries.RemoteLog.entries
    monkeypatch.setattr(
        audit_entries.RemoteLog, "entries", lambda self, after=0: list(whole(self, after))[:-1]
    )
    assert watari.fault("verify", "--cloud", "osaka") == ("missing", "5")


@pytest.mark.parametrize(
    "wrong",
    [
        ("verify", "--cloud", "tokyo", "--file", "x"),
        ("verify", "--cloud", "tokyo", "--last-hash", "ab"),
        ("verify", "--cloud", "tokyo", "--last-hash", "nonsense"),
        ("list", "--cloud", "tokyo", "--limit", "0"),
        ("list",),
    ],
)
def test_a_wrong_option_is_said_to_be_wrong(watari, wrong):
    watari(*wrong, code=Exit.USAGE)


def test_a_file_that_is_not_there_is_said_to_be_missing(watari, tmp_path):
    watari("verify", "--file", str(tmp_path / "nothing"), code=Exit.NOT_FOUND)


def test_people_read_the_newest_last_and_filter(watari):
    out, _ = watari("list", "--cloud", "tokyo")
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["NO", "WHEN", "ACTION", "SUBJECT"]
    assert [line.split()[0] for line in lines[2:]] == [str(number) for number in range(1, 9)]
    assert "migration.state SUCCEEDED" in lines[-1]
    assert "from_state=RETIRING" in lines[-1]
    newest = watari.json("list", "--cloud", "tokyo", "--limit", "2")
    assert [entry["sequence"] for entry in newest] == [7, 8]
    granted = watari.json("list", "--cloud", "osaka", "--action", "grant.issued")
    assert [entry["sequence"] for entry in granted] == [2]
    assert len(watari.json("list", "--cloud", "osaka", "--action", "reservation.")) == 3
    assert len(watari.json("list", "--cloud", "osaka", "--subject", VM)) == 5
    said, _ = watari("list", "--cloud", "osaka", "--subject", "nobody")
    assert said == "There is no such entry.\n"


def test_a_filter_says_how_far_it_looked(watari, monkeypatch):
    monkeypatch.setattr("watari.cli.audit.SEARCHED_MAX", 3)
    _, err = watari("list", "--cloud", "tokyo", "--action", "migration.requested")
    assert "Only the newest 3 of 8" in err


def test_a_log_of_many_pages_is_exported_and_verified_whole(watari, clouds, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_entries, "_PAGE_SIZE", 3)
    file = tmp_path / "pages"
    watari("export", str(file), "--cloud", "tokyo")
    assert audit.verify(audit_entries.read_file(file)).sequence == 8
    assert watari.json("verify", "--cloud", "tokyo")[0]["entries"] == 8


def test_who_is_no_operator_is_refused(watari, clouds):
    keys = clouds[0].federation.folder_of("spiffe://tokyo.example/user/acme")
    text = watari.config.read_text()
    operator = clouds[0].federation.folder_of("spiffe://tokyo.example/operator/admin")
    watari.config.write_text(text.replace(f"{operator}/", f"{keys}/"))
    _, err = watari("verify", "--cloud", "tokyo", code=Exit.REFUSED)
    assert "may not call" in err
