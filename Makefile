# Everything from a bare clone: Python >= 3.11 with venv, git and make are enough.
# A stamp file in .venv tells what is installed; nothing is installed again until it is out of date.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --constraint constraints.txt

# Typed strictly: what other packages and other people's code rely on. To mypy, calling a module of
# torch gives Any, so returning Any is allowed.
STRICT := data/*.py data/importers/*.py data/simulation/*.py reward/losses.py reward/combine.py \
	policy/ppo_math.py rlhf/types.py rlhf/generation/sampling.py rlhf/generation/batching.py \
	rlhf/model/*.py
BENCHMARKS := $(filter-out %/__init__.py %/measure.py,$(wildcard benchmarks/*.py))

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-all check fmt bench app clean tools

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

quickstart: $(VENV)/.core ## the whole loop on the built-in world, on this machine
	$(PY) -m rlhf.cli.main quickstart

install: $(VENV)/.dev tools ## .venv with everything that development needs

test: $(VENV)/.dev tools ## the fast tests, in minutes
	$(PY) -m pytest -q -m "not slow and not gpu"

test-all: $(VENV)/.dev tools ## every test but those of an accelerator
	$(PY) -m pytest -q -m "not gpu"

check: $(VENV)/.dev ## formatting, lint, strict types, import rules
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy --strict --no-warn-return-any $(STRICT)
	$(PY) -m pytest -q tests/test_architecture.py

fmt: $(VENV)/.dev ## format, and mend what lint can mend
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(VENV)/.dev ## every benchmark; figures go to runs/bench/
	@mkdir -p runs/bench
	@test -n "$(BENCHMARKS)" || echo "there is no file in benchmarks/ yet"
	@set -e; for file in $(BENCHMARKS); do \
		echo "$$file"; $(PY) "$$file" --json "runs/bench/$$(basename "$$file" .py).json"; \
	done

app: $(VENV)/.app ## the annotation app
	$(PY) -m rlhf.cli.main annotate

clean: ## remove .venv and caches; runs/ and datasets/ stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The three steps of an installation, each no more than its users need.

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "installing rlhf into $(VENV); the first time takes minutes"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.app: $(VENV)/.core
	@$(PIP) --quiet --editable '.[app]'
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@$(PIP) --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.app

$(VENV)/.created:
	@command -v git > /dev/null || { echo "git is missing: install it" \
		"(Debian: apt-get install git; macOS: xcode-select --install)"; exit 1; }
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer" \
		"(Debian: apt-get install python3 python3-venv; macOS: brew install python)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$$($(PYTHON) --version) is too old: install Python 3.11 or newer and name it," \
		"for example make PYTHON=python3.12 install"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "$(PYTHON) has no venv module: install it (Debian: apt-get install python3-venv)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --disable-pip-version-check --quiet --upgrade pip
	@touch $@

tools: # says which system tools are missing, and what works without
	@command -v c++ > /dev/null || command -v g++ > /dev/null || command -v clang++ > /dev/null || \
		echo "no C++ compiler: all works without; DeepSpeed's compiled CPU ops stay off"
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || \
		echo "no chromium: browser tests are skipped, all else works"
	@command -v postgres > /dev/null || test -n "$$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null)" || \
		echo "no PostgreSQL: tests of a shared ledger are skipped, SQLite works"
