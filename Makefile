# Everyday commands. `make` alone lists them. Each makes .venv first where it has to (scripts/dev/venv.sh).
# PYTHON=python3.12 chooses the Python that .venv is made with; ARGS='…' goes on to pytest, kircerta up or the benchmarks.

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run test test-fast check fix bench docs lab lock venv clean
export PYTHON

BIN := .venv/bin
ARGS ?=

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: venv ## start everything on this machine: server, flows, API; Ctrl-C stops it all
	@exec $(BIN)/kircerta up $(ARGS)

test: venv ## the whole suite, slow tests included
	@scripts/dev/system_tools.sh
	@exec $(BIN)/python -m pytest --durations=10 $(ARGS)

test-fast: venv ## the suite without the slow tests, for every day
	@exec $(BIN)/python -m pytest -m 'not slow' $(ARGS)

check: venv ## format, lint, types, imports, generated docs, what may be in the tree
	@$(BIN)/ruff format --check --output-format concise . || { echo 'make fix puts the format right'; exit 1; }
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --cache-dir .cache/import_linter
	@$(BIN)/python scripts/dev/check_tree.py
	@$(BIN)/python scripts/dev/check_notebooks.py
	@$(BIN)/python -m cli.docs --check

fix: venv ## format, mend what the linter can, write the generated docs again
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .
	@$(BIN)/python -m cli.docs

docs: venv ## write the generated docs again
	@$(BIN)/python -m cli.docs

bench: venv ## measure, and compare with the targets (docs/PERFORMANCE.md)
	@exec $(BIN)/python -m benchmarks $(ARGS)

lab: venv ## open the notebooks in JupyterLab; installs it when first asked for
	@exec scripts/dev/lab.sh $(ARGS)

lock: ## lock the dependencies of pyproject.toml again; UPGRADE=1 takes the newest of each
	@UPGRADE='$(UPGRADE)' scripts/dev/lock.sh

venv: ## make .venv from requirements.lock, where it is not made yet
	@scripts/dev/venv.sh

clean: ## remove .venv and caches; tasks, log and reports stay
	@rm -rf .venv .cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
