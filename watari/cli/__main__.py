"""`python -m watari.cli`: the same as the installed `watari`."""

from watari.cli.main import run

run()
