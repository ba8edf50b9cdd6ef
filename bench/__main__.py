"""Runs the bench: `python -m bench COMMAND`; `--help` tells which there are."""

import argparse
import json
import random
import signal
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench import engine, kill, record
from bench.experiment import cases, running, tables
from bench.experiment.cases import Case
from bench.images import Cache
from bench.images.cache import VARIABLE
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


def main() -> None:
    """Parses the command line and runs one command."""
    # As an exception, so that links and agents are taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = _parser().parse_args()
    arguments.run(arguments)


def _engine(arguments: argparse.Namespace) -> None:
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


def _once(arguments: argparse.Namespace) -> None:
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


def _kill(arguments: argparse.Namespace) -> None:
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


def _paper(arguments: argparse.Namespace) -> None:
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


def _transfer(arguments: argparse.Namespace) -> None:
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


def _figures(arguments: argparse.Namespace) -> None:
    _drawn(arguments.file, arguments.output or arguments.file.with_suffix(""))


def _drawn(file: Path, folder: Path) -> None:
    from bench.experiment import figures  # noqa: PLC0415 - Matplotlib, which only this needs

    found = json.loads(file.read_text())
    drawn = figures.draw(found, folder)
    table = folder / "results.md"
    table.write_text(RESULTS_HEAD + tables.text(found))
    sys.stdout.write(f"{len(drawn)} figures and {table.name} in {folder}\n")


def _directory(arguments: argparse.Namespace) -> None:
    from bench import directory  # noqa: PLC0415 - etcd's stubs, which only this needs

    size = directory.Size(
        arguments.clouds, arguments.offers, arguments.changes_per_second, arguments.seconds
    )
    kept = record.new(vars(size))
    kept["rows"]["directory"] = found = directory.run(size)
    file = _file(arguments, "directory")
    record.save(file, kept)
    sys.stdout.write(f"{directory.text(found)}{file}\n")


def _reserve(arguments: argparse.Namespace) -> None:
    from bench import reserve  # noqa: PLC0415 - PostgreSQL, which only this needs

    processors = tuple(arguments.processor or ())
    size = reserve.Size(arguments.clients, arguments.seconds, processors=processors)
    databases = arguments.database or list(reserve.DATABASES)
    kept = record.new(vars(size))
    kept["rows"]["reserve"] = found = reserve.run(databases, size)
    file = _file(arguments, "reserve")
    record.save(file, kept)
    sys.stdout.write(f"{reserve.text(found)}{file}\n")


def _batch(arguments: argparse.Namespace) -> None:
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


def _burst(arguments: argparse.Namespace) -> None:
    from bench import burst  # noqa: PLC0415 - managers and brokers, which only this needs

    size = burst.Size(arguments.machines, arguments.clouds, arguments.room, arguments.brokers)
    kept = record.new(vars(size))
    kept["rows"]["burst"] = found = burst.run(size)
    if arguments.output:
        record.save(arguments.output, kept)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def _place(arguments: argparse.Namespace) -> None:
    from bench.placing import federation, run  # noqa: PLC0415 - the broker, which only this needs

    size = federation.Size(arguments.clouds, arguments.offers, arguments.seed)
    kept = record.new(vars(size) | {"questions": arguments.questions})
    found = run.run(size, arguments.questions, arguments.changes_per_second)
    kept["rows"]["place"] = found
    file = _file(arguments, "place")
    record.save(file, kept)
    sys.stdout.write(f"{run.text(found)}{file}\n")


def _policies(arguments: argparse.Namespace) -> None:
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


def _running(arguments: argparse.Namespace) -> None:
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


def _rows(_arguments: argparse.Namespace) -> None:
    for row in engine.rows():
        quick = "quick" if row.quick else ""
        sys.stdout.write(f"{row.name:16} {quick:6} {row.title}\n")


def _images(_arguments: argparse.Namespace) -> None:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.epilog = f"Images are kept in ${VARIABLE} or ~/.cache/watari-bench."
    commands = parser.add_subparsers(required=True)
    table = commands.add_parser("engine", help="the table: Watari and its peers")
    table.add_argument("--quick", action="store_true", help="three round trips, some minutes")
    table.add_argument("--only", action="append", default=[], metavar="ROW", help="as `rows` names")
    table.set_defaults(run=_engine)
    once = commands.add_parser("once", help="methods over one link; a JSON line for each")
    methods = [*METHODS, "goodput"]
    once.add_argument("--method", action="append", choices=methods, required=True)
    once.add_argument("--image", default="root", help="root, sibling, changed, random:256MiB, ...")
    once.set_defaults(run=_once)
    killing = commands.add_parser("kill", help="kill -9 of either agent at random moments")
    killing.add_argument("--times", type=int, default=50)
    killing.add_argument("--seed", type=int, default=1)
    killing.set_defaults(run=_kill)
    catalogue = commands.add_parser("directory", help="a directory on etcd with a full catalogue")
    catalogue.add_argument("--clouds", type=int, default=1000)
    catalogue.add_argument("--offers", type=int, default=100_000)
    catalogue.add_argument("--changes-per-second", type=float, default=200)
    catalogue.add_argument("--seconds", type=float, default=60)
    catalogue.set_defaults(run=_directory)
    reserving = commands.add_parser("reserve", help="reserve and confirm, by many clients at once")
    reserving.add_argument("--database", action="append", choices=["postgresql", "sqlite"])
    reserving.add_argument("--clients", type=int, default=16)
    reserving.add_argument("--seconds", type=float, default=20)
    reserving.add_argument(
        "--processor", action="append", type=int, help="that the manager keeps to; none: all"
    )
    reserving.set_defaults(run=_reserve)
    batch = commands.add_parser("batch", help="many machines placed at once; prints JSON")
    batch.add_argument("--seed", type=int, default=1)
    batch.add_argument("--machines", type=int, default=1000)
    batch.add_argument("--clouds", type=int, default=100)
    batch.add_argument("--tightness", type=float, default=0.95, help="of all room that all need")
    batch.add_argument("--distinct", type=float, default=0.2, help="share with sizes of their own")
    batch.add_argument("--limit-seconds", type=float, default=10.0)
    batch.add_argument("--short", action="store_true", help="without the run of ten times as long")
    batch.add_argument("--by-processor", action="store_true", help="limits of processor time")
    batch.set_defaults(run=_batch)
    _add_experiment(commands)
    bursting = commands.add_parser("burst", help="migrations placed at once, scarce room; JSON")
    bursting.add_argument("--machines", type=int, default=500)
    bursting.add_argument("--clouds", type=int, default=4)
    bursting.add_argument("--room", type=int, default=8, help="machines that fit in each cloud")
    bursting.add_argument("--brokers", type=int, default=2)
    bursting.set_defaults(run=_burst)
    placing = commands.add_parser("place", help="questions to a broker of 100,000 offers")
    placing.set_defaults(run=_place)
    placing.add_argument("--clouds", type=int, default=1000)
    placing.add_argument("--offers", type=int, default=100_000)
    placing.add_argument("--seed", type=int, default=1)
    placing.add_argument("--questions", type=int, default=1000)
    placing.add_argument("--changes-per-second", type=float, default=200.0)
    policies = _add_policies(commands)
    machines = _add_running(commands)
    for command, rate, rtt in ((once, 100, 20), (killing, 200, 20), (machines, 100, 120)):
        command.add_argument("--rate", type=float, default=rate, help="Mbit/s; 0 is no limit")
        command.add_argument("--rtt", type=float, default=rtt, help="ms")
        command.add_argument("--loss", type=float, default=0.0, help="probability of each segment")
    for command in (table, once, killing, machines):
        command.add_argument("--congestion", default="", help="TCP's; default is the kernel's")
    for command in (table, once):
        command.add_argument("--repeat", type=int, default=0, metavar="N")
    for command in (table, killing, catalogue, reserving, batch, bursting, placing, policies):
        command.add_argument("-o", "--output", type=Path, metavar="FILE")
    commands.add_parser("rows", help="what `engine` can measure").set_defaults(run=_rows)
    commands.add_parser("images", help="makes the images").set_defaults(run=_images)
    return parser


def _add_experiment(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    paper = commands.add_parser(
        "paper", help="the paper's experiment, resumed where it was cut off"
    )
    paper.add_argument("--quick", action="store_true", help="three round trips, a small image")
    paper.add_argument("--repeat", type=int, default=REPEAT, metavar="N")
    paper.add_argument(
        "--slow-repeat", type=int, default=1, metavar="N", help="of methods that take minutes"
    )
    paper.add_argument("--figures", type=Path, metavar="FOLDER")
    paper.set_defaults(run=_paper, json=None)
    own = commands.add_parser("transfer", help="one's own image over one's own link")
    own.add_argument("--image", type=Path, required=True)
    own.add_argument("--rtt-ms", type=float, default=20)
    own.add_argument("--mbit", type=float, default=100)
    own.add_argument("--methods", default="watari,zstd-ssh", help="separated by commas")
    own.add_argument("--repeat", type=int, default=REPEAT, metavar="N")
    own.set_defaults(run=_transfer)
    for command in (paper, own):
        command.add_argument("--congestion", default="", help="TCP's; default is the kernel's")
    paper.add_argument("--json", type=Path, metavar="FILE", help="what is in it is not run again")
    own.add_argument("--json", type=Path, required=True, metavar="FILE")
    drawing = commands.add_parser("figures", help="draws a file of `paper` or `transfer` again")
    drawing.add_argument("file", type=Path)
    drawing.add_argument("-o", "--output", type=Path, metavar="FOLDER")
    drawing.set_defaults(run=_figures)


def _add_policies(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    policies = commands.add_parser("policies", help="a month of automatic placement, simulated")
    policies.add_argument(
        "--setting", action="append", choices=SETTINGS, help="of prices and outages; all by default"
    )
    policies.add_argument("--seeds", type=int, default=10, metavar="N", help="1 to N")
    policies.add_argument("--days", type=int, default=30)
    policies.add_argument("--clouds", type=int, default=12)
    policies.add_argument("--machines", type=int, default=100)
    policies.add_argument("--figure", type=Path, metavar="SVG", help="beside the JSON by default")
    policies.set_defaults(run=_policies)
    return policies


def _add_running(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    running = commands.add_parser("running", help="machines that run, between two hosts of the lab")
    running.add_argument("--quick", action="store_true", help="every case once")
    running.add_argument("--repeat", type=int, default=REPEAT, metavar="N")
    running.add_argument("--methods", default="", help="separated by commas; all by default")
    running.add_argument("--disks", default="qcow2,raw", help="formats, separated by commas")
    running.add_argument("--json", type=Path, metavar="FILE", help="what is in it is not run again")
    running.add_argument("--figures", type=Path, metavar="FOLDER")
    running.set_defaults(run=_running)
    return running


if __name__ == "__main__":
    main()
