"""The experiment's cases, what is kept of them, and what follows from the results."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import record
from bench.experiment import cases, figures, numbers, paper, running, tables
from bench.experiment.cases import Case
from bench.methods.result import Result
from bench.rows.context import METHODS, Context


def result(seconds: float, *, wire: int = 10**8, identical: bool = True, **stages: float) -> Result:
    return Result("any", seconds, stages, wire, 0, identical)


def recorded(*results: tuple[Case, Result]) -> dict[str, Any]:
    """What a file has, as it is read back."""
    found = {
        case.key: vars(case) | {"result": each.as_dict(), "revision": {}} for case, each in results
    }
    text = json.dumps({"cases": found, "images": {"root": {"compressed_bytes": 100_000_000}}})
    read: dict[str, Any] = json.loads(text)
    return read


def case(method: str, rtt: float, repetition: int = 0) -> Case:
    return Case(method, "root", 100.0, rtt, repetition)


EXPERIMENT = recorded(
    *[(case("paper_ipsec", rtt), result(400.0)) for rtt in (0, 60, 120)],
    *[
        (case("paper_part", rtt), result(seconds, compress=seconds - 10, copy=10.0))
        for rtt, seconds in ((0, 500.0), (60, 440.0), (120, 300.0))
    ],
    (case("watari", 0), result(9.0)),
    (case("watari", 0, 1), result(8.0)),
    (case("watari", 0, 2), result(12.0, identical=False)),
)


def test_every_case_has_a_key_of_its_own_and_a_method_that_there_is() -> None:
    found = [*cases.full(3, 1), *cases.quick()]
    assert len({each.key for each in found}) == len(found)
    known = {*METHODS, *running.SPECIAL}
    assert {each.method for each in found} == known == set(figures.LOOKS) == set(tables.NAMES)


def test_slow_methods_are_repeated_as_often_as_is_said() -> None:
    found = list(cases.full(3, 1))
    for method, count in (("paper_ipsec", 1), ("casync", 1), ("watari", 3), ("rsync", 3)):
        repetitions = {each.repetition for each in found if each.method == method}
        assert repetitions == set(range(count))
    assert [each.repetition for each in found] == sorted(each.repetition for each in found)


def test_ones_own_case_is_run_as_it_was_asked_for() -> None:
    found = list(cases.own(["paper_whole", "watari"], "my.img", 100, 120, 2))
    assert [(each.method, each.repetition) for each in found] == [
        ("paper_whole", 0),
        ("watari", 0),
        ("paper_whole", 1),
        ("watari", 1),
    ]
    assert {(each.image, each.rate_mbit, each.rtt_ms) for each in found} == {("my.img", 100, 120)}


def test_medians_spreads_and_stages() -> None:
    lines = numbers.lines(EXPERIMENT, "root", 100)
    (point,) = lines["watari"]
    assert (point.rtt_ms, point.median, point.spread) == (0, 9.0, (1.0, 3.0))
    assert not point.identical
    assert [each.rtt_ms for each in lines["paper_part"]] == [0, 60, 120]
    assert list(lines["paper_part"][1].stages.items()) == [("compress", 430.0), ("copy", 10.0)]
    assert numbers.lines(EXPERIMENT, "root", 1000) == {}


def test_the_floor_is_the_compressed_image_at_the_rate_and_two_round_trips() -> None:
    assert numbers.floor_seconds(EXPERIMENT, "root", 100, 200) == pytest.approx(8.4)


def test_lines_cross_where_the_first_becomes_faster() -> None:
    lines = numbers.lines(EXPERIMENT, "root", 100)
    # 40 s above at 60 ms, 100 s below at 120 ms.
    found = numbers.crossing_ms(lines["paper_part"], lines["paper_ipsec"])
    assert found == pytest.approx(60 + 60 * 40 / 140)
    assert numbers.crossing_ms(lines["paper_ipsec"], lines["paper_part"]) is None
    assert numbers.crossing_ms(lines["watari"], lines["paper_ipsec"]) is None, "from the first on"


def test_the_table_has_every_method_and_says_what_did_not_arrive() -> None:
    text = tables.text(EXPERIMENT)
    assert "| floor | 8.00 | 8.12 | 8.24 |" in text
    assert "| **Watari**, cold | 9.00 (8.00-12.00) NOT IDENTICAL |  |  |" in text
    assert "| part becomes faster than existing | between 60 and 80 ms | at 77 ms |" in text
    assert "| part, of existing's time | at most about 70 % from 120 ms on | 75% to 75% |" in text
    assert "| part: compress and decompress | about 4 min | 290 to 490 s |" in text
    assert "| **Watari**, cold | 100.0 | 100.0 |" in text


def test_what_is_faster_at_once_or_never_is_told_from_what_crosses() -> None:
    lines = numbers.lines(EXPERIMENT, "root", 100)
    part, existing = lines["paper_part"], lines["paper_ipsec"]
    assert paper.crossing(part, existing) == "at 77 ms"
    assert paper.crossing(lines["watari"], existing) == "at every round trip"
    assert paper.crossing(part[:1], existing) == "at none"


def test_a_run_that_was_cut_off_is_drawn_and_told_as_far_as_it_got(tmp_path: Path) -> None:
    """Methods may have been measured at no round trip in common."""
    cut_off = recorded(
        (case("paper_ipsec", 0), result(400.0)),
        (case("paper_ipsec", 200), result(410.0)),
        (case("paper_part", 60), result(50.0, compress=40.0, copy=10.0)),
    )
    assert "ratio-root-100m.svg" in [path.name for path in figures.draw(cut_off, tmp_path)]
    assert "not measured at the same round trips" in tables.text(cut_off)


def test_figures_are_drawn_alike_each_time(tmp_path: Path) -> None:
    drawn = [figures.draw(EXPERIMENT, tmp_path / name) for name in ("one", "two")]
    names = [path.name for path in drawn[0]]
    assert "time-root-100m.svg" in names
    assert "stages-paper_part-root-100m.svg" in names
    for left, right in zip(*drawn, strict=True):
        assert left.read_bytes() == right.read_bytes()
        assert left.read_text().startswith("<?xml")


def test_a_run_goes_on_where_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    class Cache:
        def compressed_bytes(self, image: Path) -> int:
            return image.stat().st_size // 2

    def move(_context: object, each: Case, _image: Path) -> Result:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(each.key)
        return result(float(len(ran)))

    image, file = tmp_path / "own.img", tmp_path / "kept" / "run.json"
    image.write_bytes(b"x" * 4096)
    monkeypatch.setattr(running, "SPECIAL", dict.fromkeys(METHODS, move))
    context = Context(Cache())  # type: ignore[arg-type]
    chosen = list(cases.own(["watari", "rsync"], str(image), 100, 20, 2))
    with pytest.raises(KeyboardInterrupt):
        running.run(context, chosen, running.Kept(file, {}))
    assert set(json.loads(file.read_text())["cases"]) == set(ran) == {e.key for e in chosen[:2]}
    ran.clear()
    running.run(context, chosen, running.Kept(file, {}))
    assert ran == [each.key for each in chosen[2:]]
    kept = json.loads(file.read_text())
    assert len(kept["cases"]) == 4
    assert kept["images"][str(image)] == {"bytes": 4096, "compressed_bytes": 2048}
    assert kept["schema"] == record.SCHEMA


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    record.save(file, record.new({}))
    with pytest.raises(SystemExit, match="no file of this command"):
        running.Kept(file, {})
