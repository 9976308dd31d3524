# All set-up there is: `make demo` or `make test` in a fresh clone. Needs Python >= 3.10 with venv, git and make.
# PYTHON chooses the interpreter: make test PYTHON=python3.12

PYTHON ?= python3
# Relative, so that the path of the checkout may hold spaces.
BIN := .venv/bin
REMOTE ?= hub
# The tests wait for other processes more than they compute. In the order of their folders: the long ones come first,
# and the quick ones of tests/unit fill up what is left.
JOBS ?= 4
# An activated environment, or Python's own variables, must not leak into ours; without its bytecode kept, every
# daemon that a test starts would compile all modules again.
unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE VIRTUAL_ENV

.DEFAULT_GOAL := help
.PHONY: help venv demo test matrix soak lint bench interop clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

venv: .venv/installed ## make .venv with everything that is needed

# Newer than pyproject.toml means: what is installed is what it asks for. Touched last, so a broken install is repeated.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[daemon,test]'
	@touch $@

demo: .venv/installed ## two hosts share compiled graphs; REMOTE=hub or directory
	$(BIN)/python -m tests.demo --remote $(REMOTE)

test: .venv/installed ## run the tests; ARGS are passed on to pytest
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

matrix: .venv/installed ## every cell of the Hub's fault matrix
	$(BIN)/python -m pytest tests/matrix --every-cell $(ARGS)

soak: .venv/installed ## hosts and trainers killed at random under a faulty Hub for SOAK_S seconds (default 3600)
	$(BIN)/python -m tests.soak

# optimum-neuron wants Python 3.10 or 3.11: make interop INTEROP_PYTHON=python3.11
INTEROP_PYTHON ?= $(PYTHON)
.venv-interop/installed: pyproject.toml tests/interop_optimum/requirements.txt
	$(INTEROP_PYTHON) -m venv .venv-interop
	.venv-interop/bin/python -m pip install --quiet --disable-pip-version-check -r tests/interop_optimum/requirements.txt -e .
	@touch $@

interop: .venv/installed .venv-interop/installed ## run optimum-neuron's own cache code against neffd
	NEFFD_INTEROP_PYTHON="$(CURDIR)/.venv-interop/bin/python" $(BIN)/python -m pytest tests/interop_optimum $(ARGS)

lint: .venv/installed ## ruff and mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

bench: .venv/installed ## measure
	$(BIN)/python -m tests.bench

clean: ## remove the environments and what tools left behind
	rm -rf .venv .venv-interop .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
