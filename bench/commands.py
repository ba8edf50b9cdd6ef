"""What each command of the bench does, from its arguments to what it prints and writes.

What only one command needs, and not every machine has, is imported there.
"""

import argparse
import json
import random
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench import engine, kill, record
from bench.experiment import cases, running, tables
from bench.experiment.cases import Case
from bench.images import Cache
from bench.link import Shape
from bench.policies.world import SETTINGS
from bench.rows.context import METHODS, Context
from watari import units

REPEAT, REPEAT_QUICK = 3, 2
GOODPUT_SECONDS_QUICK = 3.0
RESULTS_FOLDER = Path("bench-results")
RESULTS_HEAD = """# Results

Seconds are medians, with the least and the most where a case was repeated. Written by
`python -m bench figures`, like the figures beside it.

"""


def run_engine(arguments: argparse.Namespace) -> None:
    """The table: Watari and its peers."""
    rows = engine.rows()
    names = [row.name for row in rows]
    unknown = set(arguments.only) - set(names)
    if unknown:
        sys.exit(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if arguments.only:
        rows = [row for row in rows if row.name in arguments.only]
    elif arguments.quick:
        rows = [row for row in rows if row.quick]
    repeat = arguments.repeat or (REPEAT_QUICK if arguments.quick else REPEAT)
    context = _context(arguments)
    if arguments.quick:
        context.goodput_seconds = GOODPUT_SECONDS_QUICK
    chosen = {"rows": [row.name for row in rows], "repeat": repeat}
    kept = record.new(chosen | {"quick": arguments.quick, "congestion": arguments.congestion})
    engine.run(rows, context, repeat, kept, _file(arguments, "engine"))


def run_once(arguments: argparse.Namespace) -> None:
    """Methods over one link; a JSON line for each."""
    context = _context(arguments)
    shape = _shape(arguments)
    image = _image(context.cache, arguments.image)
    for number in range(arguments.repeat or 1):
        for name in arguments.method:
            if name == "goodput":
                result = context.goodput(shape)
            else:
                result = context.over(shape, METHODS[name], image)
            told = {"link": shape.text, "repetition": number, **result.as_dict()}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


def run_kill(arguments: argparse.Namespace) -> None:
    """Kills either agent at random moments, and sums up what was sent again."""
    context = _context(arguments)
    shape = _shape(arguments, queue_bytes=kill.QUEUE_BYTES)
    rng = random.Random(arguments.seed)
    calm = kill.undisturbed(context, shape)
    kills: list[kill.Kill] = []
    kept = record.new({"times": arguments.times, "link": shape.text, "seed": arguments.seed})
    file = _file(arguments, "kill")
    for number in range(arguments.times):
        each = kill.disturbed(context, shape, rng, calm.seconds)
        kills.append(each)
        again = units.format_bytes(each.link_bytes - calm.link_bytes)
        whole = "identical" if each.identical else "NOT IDENTICAL"
        sys.stdout.write(
            f"{number + 1}/{arguments.times}  {each.victim} after {each.after_seconds:.2f} s: "
            f"{each.attempts} attempts, {again} again, {whole}\n"
        )
        sys.stdout.flush()
        kept["rows"]["kill"] = kill.resent(kills, calm)
        record.save(file, kept)
    if not kills:
        return
    sums = kill.resent(kills, calm)
    seconds = statistics.median(each.seconds for each in kills)
    sys.stdout.write(
        f"identical {sums['identical']} of {len(kills)}; sent again at most "
        f"{units.format_bytes(sums['resent_bytes_max'])}, median "
        f"{units.format_bytes(sums['resent_bytes_median'])}; within the credit window of "
        f"{units.format_bytes(sums['credit_bytes'])}: {sums['within_credit']}; "
        f"{seconds:.1f} s instead of {calm.seconds:.1f} s\nevery kill: {file}\n"
    )


def run_paper(arguments: argparse.Namespace) -> None:
    """The paper's experiment, its figures and its table."""
    context = _context(arguments)
    chosen = list(
        cases.quick() if arguments.quick else cases.full(arguments.repeat, arguments.slow_repeat)
    )
    default = RESULTS_FOLDER / ("paper-quick.json" if arguments.quick else "paper.json")
    file = arguments.json or default
    if arguments.quick and arguments.json is None:
        file.unlink(missing_ok=True)
    _experiment(context, chosen, file)
    _drawn(file, arguments.figures or file.with_suffix(""))


def run_transfer(arguments: argparse.Namespace) -> None:
    """One's own image over one's own link."""
    names = [each.strip().replace("-", "_") for each in arguments.methods.split(",")]
    unknown = set(names) - set(METHODS)
    if unknown:
        there = ", ".join(sorted(METHODS))
        sys.exit(f"no such method: {', '.join(sorted(unknown))}; there are {there}")
    if not arguments.image.is_file():
        sys.exit(f"no file {arguments.image}")
    image = str(arguments.image.resolve())
    chosen = cases.own(names, image, arguments.mbit, arguments.rtt_ms, arguments.repeat)
    _experiment(_context(arguments), list(chosen), arguments.json)
    sys.stdout.write(tables.text(json.loads(arguments.json.read_text())))


def _experiment(context: Context, chosen: list[Case], file: Path) -> None:
    methods = sorted({case.method for case in chosen})
    kept = running.Kept(file, {"cases": len(chosen), "methods": methods})
    running.run(context, chosen, kept)


def run_figures(arguments: argparse.Namespace) -> None:
    """Draws what was measured again."""
    _drawn(arguments.file, arguments.output or arguments.file.with_suffix(""))


def _drawn(file: Path, folder: Path) -> None:
    from bench.experiment import figures  # noqa: PLC0415 - Matplotlib, which only this needs

    found = json.loads(file.read_text())
    drawn = figures.draw(found, folder)
    table = folder / "results.md"
    table.write_text(RESULTS_HEAD + tables.text(found))
    sys.stdout.write(f"{len(drawn)} figures and {table.name} in {folder}\n")


def run_directory(arguments: argparse.Namespace) -> None:
    """A directory on etcd with a full catalogue."""
    from bench import directory  # noqa: PLC0415 - etcd's stubs, which only this needs

    size = directory.Size(
        arguments.clouds, arguments.offers, arguments.changes_per_second, arguments.seconds
    )
    kept = record.new(vars(size))
    kept["rows"]["directory"] = found = directory.run(size)
    file = _file(arguments, "directory")
    record.save(file, kept)
    sys.stdout.write(f"{directory.text(found)}{file}\n")


def run_reserve(arguments: argparse.Namespace) -> None:
    """Reserves and confirms by many clients at once."""
    from bench import reserve  # noqa: PLC0415 - PostgreSQL, which only this needs

    processors = tuple(arguments.processor or ())
    size = reserve.Size(arguments.clients, arguments.seconds, processors=processors)
    databases = arguments.database or list(reserve.DATABASES)
    kept = record.new(vars(size))
    kept["rows"]["reserve"] = found = reserve.run(databases, size)
    file = _file(arguments, "reserve")
    record.save(file, kept)
    sys.stdout.write(f"{reserve.text(found)}{file}\n")


def run_batch(arguments: argparse.Namespace) -> None:
    """Many machines placed at once; prints JSON."""
    from bench import batch  # noqa: PLC0415 - HiGHS, which only this needs

    size = batch.Size(
        arguments.seed,
        arguments.machines,
        arguments.clouds,
        arguments.tightness,
        arguments.distinct,
        arguments.limit_seconds,
        not arguments.short,
        arguments.by_processor,
    )
    kept = record.new(vars(size))
    kept["rows"]["batch"] = found = batch.run(size)
    if arguments.output:
        record.save(arguments.output, kept)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def run_burst(arguments: argparse.Namespace) -> None:
    """Migrations placed at once where room is scarce; prints JSON."""
    from bench import burst  # noqa: PLC0415 - managers and brokers, which only this needs

    size = burst.Size(arguments.machines, arguments.clouds, arguments.room, arguments.brokers)
    kept = record.new(vars(size))
    kept["rows"]["burst"] = found = burst.run(size)
    if arguments.output:
        record.save(arguments.output, kept)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def run_place(arguments: argparse.Namespace) -> None:
    """Questions to a broker of very many offers."""
    from bench.placing import federation, run  # noqa: PLC0415 - the broker, which only this needs

    size = federation.Size(arguments.clouds, arguments.offers, arguments.seed)
    kept = record.new(vars(size) | {"questions": arguments.questions})
    found = run.run(size, arguments.questions, arguments.changes_per_second)
    kept["rows"]["place"] = found
    file = _file(arguments, "place")
    record.save(file, kept)
    sys.stdout.write(f"{run.text(found)}{file}\n")


def run_policies(arguments: argparse.Namespace) -> None:
    """A month of automatic placement, simulated."""
    from bench.policies import comparing, figures  # noqa: PLC0415 - Matplotlib, NumPy, the broker

    settings = arguments.setting or list(SETTINGS)
    size = comparing.Size(arguments.seeds, arguments.days, arguments.clouds, arguments.machines)
    kept = record.new(vars(size) | {"settings": settings})
    file = _file(arguments, "policies")
    kept["rows"]["policies"] = found = {}
    for setting in settings:
        found[setting] = comparing.run(setting, size)
        record.save(file, kept)
    figures.draw(found, arguments.figure or file.with_suffix(".svg"))
    sys.stdout.write(f"{comparing.text(found)}{file}\n")


def run_running(arguments: argparse.Namespace) -> None:
    """Machines that run, between two hosts of the lab."""
    from bench.running import experiment as machines  # noqa: PLC0415 - the lab, which needs libvirt
    from bench.running import figures, report  # noqa: PLC0415 - Matplotlib, which only this needs

    chosen = machines.Chosen(
        methods=arguments.methods.split(",") if arguments.methods else machines.METHODS,
        disks=arguments.disks.split(","),
        repeat=1 if arguments.quick else arguments.repeat,
        shape=_shape(arguments),
        load=machines.Load(),
    )
    unknown = set(chosen.methods) - set(machines.METHODS)
    if unknown:
        there = ", ".join(machines.METHODS)
        sys.exit(f"no such method: {', '.join(sorted(unknown))}; there are {there}")
    default = RESULTS_FOLDER / ("running-quick.json" if arguments.quick else "running.json")
    file = arguments.json or default
    record, folder = machines.run(chosen, file), arguments.figures or file.with_suffix("")
    figures.draw(record, folder)
    report.write(record, folder)


def run_rows(_arguments: argparse.Namespace) -> None:
    """What `engine` can measure."""
    for row in engine.rows():
        quick = "quick" if row.quick else ""
        sys.stdout.write(f"{row.name:16} {quick:6} {row.title}\n")


def run_images(_arguments: argparse.Namespace) -> None:
    """Makes the images, and says how large they are."""
    cache = Cache()
    for image in (cache.root(), cache.sibling(), cache.changed()):
        compressed = units.format_bytes(cache.compressed_bytes(image))
        sys.stdout.write(f"{image}: {compressed} by zstd -3\n")
    unique, compressed_unique = cache.unique_bytes(cache.sibling(), cache.root())
    sys.stdout.write(
        f"sibling: {units.format_bytes(unique)} that root does not have, "
        f"{units.format_bytes(compressed_unique)} by zstd -3\n"
    )


def _image(cache: Cache, name: str) -> Path:
    kind, _, size = name.partition(":")
    if kind in ("random", "sparse") and size:
        size_bytes = units.parse_bytes(size)
        return cache.random(size_bytes) if kind == "random" else cache.sparse(size_bytes)
    if kind in ("root", "sibling", "changed"):
        made: Path = getattr(cache, kind)()
        return made
    sys.exit(f"no image {name}; write root, sibling, changed, random:256MiB or sparse:4GiB")


def _context(arguments: argparse.Namespace) -> Context:
    return Context(Cache(), arguments.congestion)


def _shape(arguments: argparse.Namespace, queue_bytes: int = 0) -> Shape:
    return Shape(
        arguments.rate * 1e6,
        arguments.rtt / 1000,
        arguments.loss,
        queue_bytes,
        arguments.congestion,
    )


def _file(arguments: argparse.Namespace, what: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    chosen: Path | None = arguments.output
    return chosen or RESULTS_FOLDER / f"{what}-{stamp}.json"
