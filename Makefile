# Sets everything up on a fresh machine, then runs. All commands work again and again.
#
#   make tune         a first search, on built-in data
#   make test         the tests
#   make test-slow    the tests that take minutes each
#   make cluster-test the tests on several machines, which this one plays
#
# Another Python: make PYTHON=python3.12 tune

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: tune test test-fast test-slow cluster-test lint setup

tune: $(READY)
	$(VENV)/bin/python experiments/tune_thermal.py --learning.num-epochs 12

test: test-fast
	$(VENV)/bin/python -m pytest -m "ray and not slow and not cluster"

# Everything that starts no Ray: three to seven minutes on two cores.
test-fast: $(READY)
	$(VENV)/bin/python -m pytest -m "not ray and not slow and not cluster" --numprocesses auto --dist worksteal

# Searches that are killed, an MLflow that is away, a database, a fresh environment: 20 minutes on two cores, up to an
# hour on slow ones. Those that start a Ray come one after the other.
test-slow: $(READY)
	$(VENV)/bin/python -m pytest -m "slow and not ray" --numprocesses auto --dist worksteal
	$(VENV)/bin/python -m pytest -m "slow and ray"

# Several machines, as network namespaces of this one: Linux, root, and apt-get install openssh-server rsync. About ten
# minutes on two cores.
cluster-test: $(READY)
	$(VENV)/bin/python -m pytest -m cluster

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
		{ echo "error: there is no $(PYTHON) here; install Python 3.11 or newer, or say make PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) -V), but 3.11 or newer is needed; say make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) has no venv; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@echo "Installing into $(VENV), once: about 2 minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
