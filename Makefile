# Everything goes through a virtual environment that the first target to run makes by itself.
#   make demo    watch a virtual machine cross from one cloud to another
#   make test    everything that CI checks, except the long fault suite
#   make faults  kill every process at every step (minutes)
#   make storm   kill and cut off etcd's nodes and directories for minutes, from SEEDS (as root)
#   make bench   the paper's experiment in small over an emulated WAN (minutes, as root)
#   make bench-paper   all of it, resumed where it was cut off (hours, as root)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHON VENV

.PHONY: demo test faults storm bench bench-paper lint protos format contract-release clean

demo:
	@tools/setup.sh demo
	$(BIN)/watari demo

test: lint
	$(BIN)/pytest tests --ignore=tests/faults

faults:
	@tools/setup.sh test
	$(BIN)/pytest tests/faults

# Each is a minute of publishing while etcd's nodes and directories die and are cut off.
SEEDS ?= 1 2 3 4 5
storm:
	@tools/setup.sh test
	@for seed in $(SEEDS); do unshare --net -- $(BIN)/python -m tests.storm --seed $$seed || exit 1; done

bench:
	@bench/setup.sh
	$(BIN)/python -m bench paper --quick

bench-paper:
	@bench/setup.sh
	$(BIN)/python -m bench paper

lint:
	@tools/setup.sh test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/released.binpb

# Writes the stubs from protos/ again; a test compares them.
protos:
	@tools/setup.sh test
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python tools/generate_stubs.py

# With a release: what later contracts must stay compatible with.
contract-release:
	$(BIN)/buf build --output protos/released.binpb

format:
	@tools/setup.sh test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
