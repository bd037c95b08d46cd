# No target needs root. `make` alone prints what there is.
VENV := .venv
BIN := $(VENV)/bin
PORT ?=
WORKERS ?= 3
# each test of a daemon starts a dozen interpreters: without compiled files they would compile everything anew
export PYTHONDONTWRITEBYTECODE :=
DEMO := $(if $(PORT),--port $(PORT),) $(ARGS)

# the newest supported Python that can make an environment; a pyenv shim may exist without a Python behind it
find_python = for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && exit 0; done; \
	echo 'tickring needs Python 3.11, 3.12 or 3.13 with venv (on Debian: apt-get install python3 python3-venv)' >&2; exit 1

.PHONY: help run test check bench faults clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'variables: PORT=8000 (make run), WORKERS=3 (make test; 0: one after the other), ARGS="..." (passed on by run, test, bench and faults)'

run: $(VENV)/installed-run ## install, then run the demo: everything on simulated markets, no network; Ctrl-C ends it
	@$(BIN)/tickring demo $(DEMO)

test: $(VENV)/installed-dev ## install, then run the tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 15 $(ARGS)

check: $(VENV)/installed-dev ## install, then run linter, type checker and the rules on imports
	$(BIN)/ruff check .
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: $(VENV)/installed-bench ## install, then measure latency and throughput beside their limits and peers
	$(BIN)/python bench $(ARGS)

faults: $(VENV)/installed-dev ## install, then damage a whole daemon in a seeded order, and count what is left
	@$(BIN)/python -m tickring.tests.faults $(ARGS)

clean: ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	python=$$($(find_python)) && $$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/installed-run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[embedded,demo]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[embedded,demo,test,check]'
	@touch $@

$(VENV)/installed-bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[embedded,demo,test,bench]'
	@touch $@
