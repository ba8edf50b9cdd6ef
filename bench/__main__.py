"""Runs the bench: `python -m bench COMMAND`; `--help` tells which there are."""

import argparse
import signal
import sys
from pathlib import Path

from bench import commands
from bench.commands import REPEAT
from bench.images.cache import VARIABLE
from bench.policies.world import SETTINGS
from bench.rows.context import METHODS


def main() -> None:
    """Parses the command line and runs one command."""
    # As an exception, so that links and agents are taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = _parser().parse_args()
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.epilog = f"Images are kept in ${VARIABLE} or ~/.cache/watari-bench."
    subparsers = parser.add_subparsers(required=True)
    table = subparsers.add_parser("engine", help="the table: Watari and its peers")
    table.add_argument("--quick", action="store_true", help="three round trips, some minutes")
    table.add_argument("--only", action="append", default=[], metavar="ROW", help="as `rows` names")
    table.set_defaults(run=commands.run_engine)
    once = subparsers.add_parser("once", help="methods over one link; a JSON line for each")
    methods = [*METHODS, "goodput"]
    once.add_argument("--method", action="append", choices=methods, required=True)
    once.add_argument("--image", default="root", help="root, sibling, changed, random:256MiB, ...")
    once.set_defaults(run=commands.run_once)
    killing = subparsers.add_parser("kill", help="kill -9 of either agent at random moments")
    killing.add_argument("--times", type=int, default=50)
    killing.add_argument("--seed", type=int, default=1)
    killing.set_defaults(run=commands.run_kill)
    catalogue = subparsers.add_parser("directory", help="a directory on etcd with a full catalogue")
    catalogue.add_argument("--clouds", type=int, default=1000)
    catalogue.add_argument("--offers", type=int, default=100_000)
    catalogue.add_argument("--changes-per-second", type=float, default=200)
    catalogue.add_argument("--seconds", type=float, default=60)
    catalogue.set_defaults(run=commands.run_directory)
    reserving = subparsers.add_parser(
        "reserve", help="reserve and confirm, by many clients at once"
    )
    reserving.add_argument("--database", action="append", choices=["postgresql", "sqlite"])
    reserving.add_argument("--clients", type=int, default=16)
    reserving.add_argument("--seconds", type=float, default=20)
    reserving.add_argument(
        "--processor", action="append", type=int, help="that the manager keeps to; none: all"
    )
    reserving.set_defaults(run=commands.run_reserve)
    batch = subparsers.add_parser("batch", help="many machines placed at once; prints JSON")
    batch.add_argument("--seed", type=int, default=1)
    batch.add_argument("--machines", type=int, default=1000)
    batch.add_argument("--clouds", type=int, default=100)
    batch.add_argument("--tightness", type=float, default=0.95, help="of all room that all need")
    batch.add_argument("--distinct", type=float, default=0.2, help="share with sizes of their own")
    batch.add_argument("--limit-seconds", type=float, default=10.0)
    batch.add_argument("--short", action="store_true", help="without the run of ten times as long")
    batch.add_argument("--by-processor", action="store_true", help="limits of processor time")
    batch.set_defaults(run=commands.run_batch)
    _add_experiment(subparsers)
    bursting = subparsers.add_parser("burst", help="migrations placed at once, scarce room; JSON")
    bursting.add_argument("--machines", type=int, default=500)
    bursting.add_argument("--clouds", type=int, default=4)
    bursting.add_argument("--room", type=int, default=8, help="machines that fit in each cloud")
    bursting.add_argument("--brokers", type=int, default=2)
    bursting.set_defaults(run=commands.run_burst)
    placing = subparsers.add_parser("place", help="questions to a broker of 100,000 offers")
    placing.set_defaults(run=commands.run_place)
    placing.add_argument("--clouds", type=int, default=1000)
    placing.add_argument("--offers", type=int, default=100_000)
    placing.add_argument("--seed", type=int, default=1)
    placing.add_argument("--questions", type=int, default=1000)
    placing.add_argument("--changes-per-second", type=float, default=200.0)
    policies = _add_policies(subparsers)
    machines = _add_running(subparsers)
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
    subparsers.add_parser("rows", help="what `engine` can measure").set_defaults(
        run=commands.run_rows
    )
    subparsers.add_parser("images", help="makes the images").set_defaults(run=commands.run_images)
    return parser


def _add_experiment(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    paper = subparsers.add_parser(
        "paper", help="the paper's experiment, resumed where it was cut off"
    )
    paper.add_argument("--quick", action="store_true", help="three round trips, a small image")
    paper.add_argument("--repeat", type=int, default=REPEAT, metavar="N")
    paper.add_argument(
        "--slow-repeat", type=int, default=1, metavar="N", help="of methods that take minutes"
    )
    paper.add_argument("--figures", type=Path, metavar="FOLDER")
    paper.set_defaults(run=commands.run_paper, json=None)
    own = subparsers.add_parser("transfer", help="one's own image over one's own link")
    own.add_argument("--image", type=Path, required=True)
    own.add_argument("--rtt-ms", type=float, default=20)
    own.add_argument("--mbit", type=float, default=100)
    own.add_argument("--methods", default="watari,zstd-ssh", help="separated by commas")
    own.add_argument("--repeat", type=int, default=REPEAT, metavar="N")
    own.set_defaults(run=commands.run_transfer)
    for command in (paper, own):
        command.add_argument("--congestion", default="", help="TCP's; default is the kernel's")
    paper.add_argument("--json", type=Path, metavar="FILE", help="what is in it is not run again")
    own.add_argument("--json", type=Path, required=True, metavar="FILE")
    drawing = subparsers.add_parser("figures", help="draws a file of `paper` or `transfer` again")
    drawing.add_argument("file", type=Path)
    drawing.add_argument("-o", "--output", type=Path, metavar="FOLDER")
    drawing.set_defaults(run=commands.run_figures)


def _add_policies(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    policies = subparsers.add_parser("policies", help="a month of automatic placement, simulated")
    policies.add_argument(
        "--setting", action="append", choices=SETTINGS, help="of prices and outages; all by default"
    )
    policies.add_argument("--seeds", type=int, default=10, metavar="N", help="1 to N")
    policies.add_argument("--days", type=int, default=30)
    policies.add_argument("--clouds", type=int, default=12)
    policies.add_argument("--machines", type=int, default=100)
    policies.add_argument("--figure", type=Path, metavar="SVG", help="beside the JSON by default")
    policies.set_defaults(run=commands.run_policies)
    return policies


def _add_running(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    running = subparsers.add_parser(
        "running", help="machines that run, between two hosts of the lab"
    )
    running.add_argument("--quick", action="store_true", help="every case once")
    running.add_argument("--repeat", type=int, default=REPEAT, metavar="N")
    running.add_argument("--methods", default="", help="separated by commas; all by default")
    running.add_argument("--disks", default="qcow2,raw", help="formats, separated by commas")
    running.add_argument("--json", type=Path, metavar="FILE", help="what is in it is not run again")
    running.add_argument("--figures", type=Path, metavar="FOLDER")
    running.set_defaults(run=commands.run_running)
    return running


if __name__ == "__main__":
    main()
