# Everything runs in .venv, which `make setup` creates from requirements.lock (pinned, with hashes).
PYTHON ?= python3
BIN := .venv/bin
# The requested Python; without a request, the one of the existing .venv.
REQUESTED := $(if $(filter file,$(origin PYTHON)),$(firstword $(wildcard $(BIN)/python) $(PYTHON)),$(PYTHON))
PRINT_VERSION := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
VERSION := $(or $(shell $(REQUESTED) $(PRINT_VERSION) 2>/dev/null),$(shell $(PYTHON) $(PRINT_VERSION)))
STAMP := .venv/stamp-$(VERSION)
DEMO_ARGS ?=
MINUTES ?= 20
SOAK_ARGS ?=
SECONDS ?= 60
BENCH_ARGS ?=
DAGSTER_PORT ?= 3000
PEERS_ARGS ?=

# Tools that tests/tools.sh has fetched without installing them.
export PATH := $(CURDIR)/.cache/tools/usr/bin:$(CURDIR)/.cache/tools/usr/sbin:$(PATH)

.PHONY: setup tools lock format docs check test fuzz bounds soak demo dagster bench peers clean

setup: $(STAMP)

# Replace a .venv of another Python, or an incomplete one.
$(STAMP): requirements.lock pyproject.toml
	@$(BIN)/python$(VERSION) -m pip --version >/dev/null 2>&1 || \
		{ PYTHON=$(PYTHON) tests/tools.sh venv && echo "creating .venv with Python $(VERSION)" && $(PYTHON) -m venv --clear .venv; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q src
	touch $(STAMP)

# Everything that the tests need besides Python packages: install it if that needs no password, otherwise say how to.
tools:
	@PYTHON=$(PYTHON) tests/tools.sh $(if $(wildcard $(STAMP)),,venv) java mvn compose pgbouncer promtool systemd-analyze

# Pin the newest versions that pyproject.toml allows.
lock:
	$(PYTHON) -m venv .cache/lock && .cache/lock/bin/pip install --quiet uv
	.cache/lock/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --no-strip-extras --no-emit-index-url --all-extras --group dev pyproject.toml -o requirements.lock

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Write the tables of settings, metrics, commands and message shapes into their pages in docs/.
docs: setup
	$(BIN)/python -m tests.unit.test_docs

# The checks that need no service; under a minute.
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest -q -n auto tests/unit tests/property

# All tests, against a real Kafka and a real Postgres. A missing tool fails here instead of skipping its tests.
test: export TICKLOOM_TEST_TOOLS := all
test: tools
	$(MAKE) --no-print-directory check
	$(BIN)/pytest -n 3 --dist worksteal --durations=15 tests/integration tests/contract tests/acceptance tests/fuzz

# Search for bytes on which the readers and their judge differ, or that end the process; SECONDS=60.
fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# Run replicas for MINUTES while everything around them breaks, and then judge the tables.
soak: setup
	@tests/tools.sh java mvn
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m tests.acceptance.chaos --minutes $(MINUTES) $(SOAK_ARGS)

# The long forms of tests/acceptance/test_bounds.py: a million symbols, a minute's stall, millions of messages.
bounds: setup
	@tests/tools.sh java mvn
	TICKLOOM_TEST_BOUNDS=long $(BIN)/pytest -s tests/acceptance/test_bounds.py

demo: setup
	$(BIN)/tickloom demo $(DEMO_ARGS)

# Broker, Postgres, producer, and Dagster's page on port 3000 with a running schedule; Ctrl-C ends everything.
dagster: setup
	@tests/tools.sh broker
	$(BIN)/python -m tests.services $(BIN)/python deploy/dagster/local.py $(DAGSTER_PORT)

# Measure this machine. The services start as they do for the tests.
bench: setup
	@tests/tools.sh broker
	$(BIN)/python -m tests.services $(BIN)/tickloom bench $(BENCH_ARGS)

# Run tickloom and its peers on one log, and print the table of docs/explanation/comparison.md.
peers: setup
	@tests/tools.sh java mvn
	$(BIN)/python -m benchmarks $(PEERS_ARGS)

clean:
	rm -rf .venv .cache dist build .pytest_cache .ruff_cache .hypothesis
