# The two commands: `make demo` and `make test`. Both set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
THREADS ?= 2
WORKERS ?= 2
USERS ?= 2000
# What to install: versions as tested, or constraints-lowest.txt for the lowest that are admitted.
CONSTRAINTS ?= constraints.txt
# A file's tests share what is dear to make: one worker does them all. Files begin in their order.
SHARED := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest $(SHARED) --durations 20
# Sources are compiled once, when first imported, not in each of the many processes that tests start.
# Installing compiles none: it would take half a minute, mostly for those that nothing here imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test test-slow test-long lint types clean

demo: $(READY)
	$(BIN)/longrec --threads $(THREADS) demo --out demo --users $(USERS)

install: $(READY)

test: $(READY)
	$(PYTEST)

test-slow: $(READY)
	$(PYTEST) -m slow

# For nights: 200 kills of each kind of store instead of 20, and minutes of load.
test-long: $(READY)
	LONGREC_TEST_KILLS=200 $(PYTEST) --timeout 3600 -m 'long or kills'

lint: $(READY)
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/ruff check src tests benchmarks tools

types: $(READY)
	$(BIN)/mypy

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "longrec needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --no-compile --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) demo build
