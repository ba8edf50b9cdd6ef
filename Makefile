# Everything goes through a virtual environment that the first target to run makes by itself.
#   make demo    watch a virtual machine cross from one cloud to another
#   make test    everything that CI checks, except the long fault suite
#   make faults  kill every process at every step (minutes)
#   make hand-over   the manager that works is killed or stands still at every step (minutes)
#   make hostile wrong parties, men in the middle, floods, removed providers (minutes, as root)
#   make storm   kill and cut off etcd's nodes and directories for minutes, from SEEDS (as root)
#   make race    64 clients and the last units of capacity, managers killed, on SQLite and PostgreSQL (minutes)
#   make lab     two hypervisor hosts with real guests, from Debian's packages (minutes, as root)
#   make matrix  every process killed, every connection cut at every step; SAMPLE=0 is all of it (an hour)
#   make lab-faults   the same while a running guest travels; SAMPLE=0 is all of it (half an hour, as root)
#   make compose-up   a federation in containers, with etcd; make compose-down stops it
#   make bench   the paper's experiment in small over an emulated WAN (minutes, as root)
#   make bench-running machines that run: cold, suspend, warm and libvirt's own (an hour, as root)
#   make bench-paper   all of it, resumed where it was cut off (hours, as root)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHON VENV

.PHONY: demo test faults hand-over hostile storm race lab lab-faults matrix bench bench-paper bench-running lint protos access format contract-release clean
.PHONY: compose-build compose-up compose-down compose-wheels compose-test

demo:
	@tools/setup.sh demo
	$(BIN)/watari demo

# Tests wait more than they compute: three processes keep two processors busy. What measures time runs
# alone, in the end.
WORKERS ?= 3
TESTED := tests --ignore=tests/faults --ignore=tests/hostile --ignore=tests/compose --ignore=tests/lab
test: lint
	$(BIN)/pytest $(TESTED) -m "not alone" -n $(WORKERS) --dist worksteal
	$(BIN)/pytest $(TESTED) -m alone

faults:
	@tools/setup.sh test
	$(BIN)/pytest tests/faults -m "not alone" -n 2 --dist loadfile
	$(BIN)/pytest tests/faults -m alone

hand-over:
	@tools/setup.sh test
	WATARI_HAND_OVERS=all $(BIN)/pytest tests/faults/test_hand_over.py

hostile:
	@tools/setup.sh test
	$(BIN)/pytest tests/hostile

# Each is a minute of publishing while etcd's nodes and directories die and are cut off.
SEEDS ?= 1 2 3 4 5
storm:
	@tools/setup.sh test
	@for seed in $(SEEDS); do unshare --net -- $(BIN)/python -m tests.storm --seed $$seed || exit 1; done

# A minute on each database, as SEED says.
race:
	@tools/setup.sh test
	$(BIN)/python -m tests.faults.race --seed $(SEED)

# Needs /dev/net/tun, and neither KVM nor systemd; the guests' kernel is kept in the user's cache.
lab:
	@tools/setup.sh lab
	$(BIN)/pytest tests/lab

# So many cases by chance, from SEED; SAMPLE=0 is all of them. PAIRS are cases of two faults at once.
SEED ?= 1
SAMPLE ?= 40
PAIRS ?= 10
matrix:
	@tools/setup.sh test
	$(BIN)/python -m tests.faults.matrix --sample $(SAMPLE) --pairs $(PAIRS) --seed $(SEED)

lab-faults:
	@tools/setup.sh lab
	$(BIN)/python -m tests.lab.faults --sample $(SAMPLE) --pairs $(PAIRS) --seed $(SEED)

bench:
	@bench/setup.sh
	$(BIN)/python -m bench paper --quick

bench-paper:
	@bench/setup.sh
	$(BIN)/python -m bench paper

# QUICK=1 runs every case once.
bench-running:
	@bench/setup.sh
	@tools/setup.sh lab
	$(BIN)/python -m bench running $(if $(QUICK),--quick)

lint:
	@tools/setup.sh test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/released.binpb

# A federation in containers: docs/containers.md. COMPOSE=podman-compose takes podman.
COMPOSE ?= docker compose
WATARI_PORTS ?= 74
WATARI_UID ?= $(shell id -u | sed 's/^0$$/10001/')
export WATARI_PORTS WATARI_UID
CONTAINERS := $(COMPOSE) -f compose/compose.yaml $(if $(METRICS),-f compose/compose.metrics.yaml) -p watari

compose-up: compose-build
	@tools/setup.sh demo
	$(BIN)/python -m compose.prepare --owner $(WATARI_UID) --ports $(WATARI_PORTS)
	$(CONTAINERS) up -d --no-build

# One image for etcd's nodes, one for PostgreSQL, one for all else.
compose-build:
	$(CONTAINERS) build etcd-1 postgresql directory-1

# Volumes and compose/state stay.
compose-down:
	$(CONTAINERS) down

# For builds that reach no package index: PIP_NO_INDEX=1 make compose-up takes everything from there.
compose-wheels:
	@tools/setup.sh demo
	$(BIN)/python -m pip wheel --quiet --wheel-dir compose/wheels hatchling '.[etcd,postgresql]'
	rm -f compose/wheels/watari-*.whl

# As root, with podman: builds it all, and stops parts of it while machines cross (minutes).
compose-test:
	@compose/setup-test.sh
	$(BIN)/pytest tests/compose

# Writes the stubs from protos/ again; a test compares them.
protos:
	@tools/setup.sh test
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python tools/generate_stubs.py

# The tables of docs/access.md, after a change of watari/authz.py or protos/.
access:
	@tools/setup.sh test
	$(BIN)/python tools/access_table.py

# With a release: what later contracts must stay compatible with.
contract-release:
	$(BIN)/buf build --output protos/released.binpb

format:
	@tools/setup.sh test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
