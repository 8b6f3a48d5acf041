# `make help` tells the targets. PYTHON chooses the interpreter (3.11 or newer) that .venv is made from;
# ARGS is handed to what `test`, `bench` and `demo` run.
PYTHON ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-one unit check lint bench format lock clean

help: ## tell the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

demo: $(VENV)/.runtime ## run an example shop, tasks and a workflow, on the embedded default: no server needed
	$(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/.dev ## run the tests against a real RabbitMQ and MariaDB (found, started or installed)
	scripts/test $(BIN)/python $(ARGS)

test-one: $(VENV)/.dev ## run one test, file or folder: make test-one T=tests/test_codec.py
	@test -n "$(T)" || { echo 'say which: make test-one T=tests/test_codec.py::test_name' >&2; exit 2; }
	$(BIN)/python -m pytest -q "$(T)" $(ARGS)

unit: $(VENV)/.dev ## run the tests that need no server, several at a time: an answer in under two minutes
	$(BIN)/python -m pytest -m unit -n auto --dist worksteal $(ARGS)

check: lint test ## everything that must hold before a change goes in

lint: $(VENV)/.dev ## format, lint, types and layers, without the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench ## measure Aiki and the incumbents on the same servers
	$(BIN)/python -m bench $(ARGS)

format: $(VENV)/.dev ## format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## resolve the dependencies anew and rewrite the lock files
	scripts/lock

clean: ## remove what these targets made
	rm -rf $(VENV) bench/.cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One virtual environment; a stamp says which lock it holds. The locks agree with each other (see scripts/lock).
$(VENV)/.runtime: requirements.lock pyproject.toml scripts/install
	PYTHON='$(PYTHON)' scripts/install $(VENV) $<
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml scripts/install
	PYTHON='$(PYTHON)' scripts/install $(VENV) $<
	@touch $@

$(VENV)/.bench: requirements-bench.lock pyproject.toml scripts/install
	PYTHON='$(PYTHON)' scripts/install $(VENV) $<
	@touch $@
