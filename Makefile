# A fresh clone needs Python 3.11 or newer, pip and make; everything else comes from requirements/*.txt.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

MODERN := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do $$p -c '$(MODERN)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
LOCKED := $(PIP) --no-deps --require-hashes --requirement
ARGS ?=

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The package's own dependencies are a stamp of their own, so that the demo need not wait for the development tools.
.venv/.runtime: pyproject.toml requirements/build.txt requirements/runtime.txt
	@'$(PYTHON)' -c '$(MODERN)' 2>/dev/null || { echo 'Palaver needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3' >&2; exit 1; }
	@test -x $(BIN)/python || { echo 'creating .venv'; $(PYTHON) -m venv .venv; }
	@echo 'installing the locked dependencies'
	@$(LOCKED) requirements/build.txt
	@$(LOCKED) requirements/runtime.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: .venv/.runtime requirements/dev.txt
	@echo 'installing the locked development tools'
	@$(LOCKED) requirements/dev.txt
	@touch $@
