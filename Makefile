# Everything runs in .venv, which is made on first use.  `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?= -n 2

.DEFAULT_GOAL := help
.PHONY: help demo test lint types docs bench clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/.core ## install the light core and run the main job to a report
	$(BIN)/defer demo

test: $(VENV)/.dev ## install the development extra and run all tests
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

lint: $(VENV)/.dev ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## check types
	$(BIN)/mypy

docs: $(VENV)/.dev ## build the documentation, warnings as errors
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html

bench: .venv-bench/.ready $(VENV)/.dev ## benchmarks; those against peers that pin old versions have their own environment
	.venv-bench/bin/python benchmarks/routers.py
	.venv-bench/bin/python benchmarks/router_peers.py
	.venv-bench/bin/python benchmarks/ope.py
	.venv-bench/bin/python benchmarks/speed.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/deferral_speed.py
	$(BIN)/python benchmarks/deferral.py
	$(BIN)/python benchmarks/consistency.py

clean: ## remove what was built
	rm -rf .venv .venv-bench docs/_build docs/auto_examples docs/api/generated defer-demo build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e .
	touch $@

# torch first and by its exact version, so that nothing else brings in another build of it.
$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt "torch==2.13.0"
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.core

.venv-bench/.ready: pyproject.toml benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install -q -r benchmarks/requirements.txt -e .
	.venv-bench/bin/python -m pip install -q --no-deps routellm==0.2.0 llmrouter-lib==0.4.0
	touch $@
