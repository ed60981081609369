# The one entry point, for people and CI. `make` lists the targets.
VENV ?= .venv
VENV_GQL3 ?= .venv-gql3
PYTHON ?= python3
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup test test-gql3 test-versions drills check demo bench clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(BIN)/.ready ## make .venv with everything the other targets need

# Tactus is installed whole: its runtime is our first client, and the tests run it.
$(BIN)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV): once, a few minutes and 500 MB, most of it Tactus"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[tactus,s3,dev]'
	@touch $@

# In two halves at once: tests wait more than they compute. The second one's output follows the first one's.
HALF := tests/cli tests/durable tests/e2e tests/faults tests/power tests/sync
test: setup ## run all tests, with the coverage gate
	@$(BIN)/coverage erase
	@mkdir -p build
	@$(BIN)/coverage run -m pytest $(HALF) > build/half.log 2>&1 & half=$$!; \
	  $(BIN)/coverage run -m pytest $(HALF:%=--ignore=%) -p no:cacheprovider; rest=$$?; \
	  wait $$half; half=$$?; cat build/half.log; [ $$rest = 0 ] && [ $$half = 0 ]
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

test-gql3: $(VENV_GQL3)/.ready ## run the tests that need no Tactus with gql 3.5, as Plexus has it
	@$(VENV_GQL3)/bin/python -m pytest

$(VENV_GQL3)/.ready: pyproject.toml
	@echo "setting up $(VENV_GQL3): once"
	@$(PYTHON) -m venv $(VENV_GQL3)
	@$(VENV_GQL3)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]' 'gql[requests]<4'
	@touch $@

# 0.49 pins a CUDA torch of 5 GB that no test needs: each version is laid over the installed one's dependencies.
test-versions: setup ## test with the oldest Tactus that Plexus allows, and with the newest
	@for tactus in tactus==0.49.0 tactus; do \
	  rm -rf build/tactus; \
	  $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/tactus $$tactus || exit 1; \
	  echo "with $$(basename build/tactus/tactus-*.dist-info .dist-info):"; \
	  PYTHONPATH=$(CURDIR)/build/tactus $(BIN)/python -m pytest -q tests/durable tests/conformance tests/e2e || exit 1; \
	done

drills: setup ## run the tests that are too long for each change
	@$(BIN)/python -m pytest -m drill

check: setup ## lint and type-check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

demo: setup ## a real Tactus procedure survives an outage and a kill -9
	@$(BIN)/python -m tools.demo

bench: setup ## what a checkpoint costs, as ratios within one run
	@$(BIN)/python -m tools.bench
	@$(BIN)/python -m tools.traffic

clean: ## remove what the other targets made
	@rm -rf $(VENV) $(VENV_GQL3) build .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
