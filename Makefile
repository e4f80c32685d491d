# One command for each thing; CI (.ci/run) calls the same ones. `make` alone lists them.
#   VENV=dir      the virtual environment (default .venv)
#   PYTHON=exe    the interpreter it is made with (default python3; 3.10 or newer)
#   PYTEST_ARGS   more arguments for pytest, e.g. make test PYTEST_ARGS='-k rename -x'

VENV ?= .venv
PYTHON ?= python3
PYTEST_ARGS ?=
BIN = $(VENV)/bin
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-stop test check format bench soak clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready-dev ## everything for working on pictofs: FUSE, virtual environment, tools

# The stamps are newer than what they were made from, so a changed dependency is installed by the next command.
# They count for nothing in a checkout that has moved since.
ifneq ($(shell cat $(VENV)/.made-for 2>/dev/null),$(shell pwd))
.PHONY: $(VENV)/.ready-dev $(VENV)/.ready-run
endif
$(VENV)/.ready-dev: pyproject.toml scripts/setup.sh
	@scripts/setup.sh $(VENV) dev
	@touch $@ $(VENV)/.ready-run

$(VENV)/.ready-run: pyproject.toml scripts/setup.sh
	@scripts/setup.sh $(VENV) run
	@touch $@

demo: $(VENV)/.ready-run ## a sandbox server with pictures, mounted at ./mnt
	@scripts/demo.sh start $(VENV)

demo-stop: ## unmount ./mnt and stop the demo's server
	@scripts/demo.sh stop $(VENV)

test: setup ## the whole test suite, with real mounts
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: setup ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

format: setup ## put the code into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## each script of bench/, one after another
	@set -e; for script in bench/*.py; do \
	  case $$script in bench/_*|'bench/*.py') continue;; esac; \
	  echo "== $$script"; $(BIN)/python $$script; \
	done

soak: setup ## the long tests: hundreds of crashes, thousands of steps (an hour or more)
	$(BIN)/python -m pytest -m soak --timeout=7200 $(PYTEST_ARGS)

clean: demo-stop ## remove what was made here (not the virtual environment)
	rm -rf .demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
