"""Coverage-guided fuzzing of what a receiver does with frames (docs/fuzzing.md).

    pip install -e '.[fuzz]'
    python -m tools.fuzz_frames -max_total_time=300 FOLDER

Every argument is libFuzzer's; FOLDER keeps the inputs that reach something new. What an input
means, and what must hold, is in `fuzz_receiver`. An input that breaks it is written to a file
`crash-...`; `python -m tools.fuzz_frames crash-...` plays it again.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["agent.transfer", "agent.seeds"]):
    from tools.fuzz_receiver import play

DEFAULTS = (
    "-max_len=2048",
    "-len_control=0",
    "-rss_limit_mb=512",
    "-malloc_limit_mb=64",
    "-timeout=10",
)
"""Input in bytes, long ones from the beginning; memory of the process and of one allocation in MiB;
seconds for one input.
"""


def main(arguments: list[str]) -> None:
    """Runs until libFuzzer ends the process."""
    given = {argument.partition("=")[0] for argument in arguments}
    added = [each for each in DEFAULTS if each.partition("=")[0] not in given]
    atheris.Setup([arguments[0], *added, *arguments[1:]], play)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
