# Everything runs in .venv, which `make setup` makes from requirements.lock (pinned, with hashes).
PYTHON ?= python3
BIN := .venv/bin
# The Python that was asked for; where none was, that of the .venv which is there.
ASKED := $(if $(filter file,$(origin PYTHON)),$(firstword $(wildcard $(BIN)/python) $(PYTHON)),$(PYTHON))
TELL := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
VERSION := $(or $(shell $(ASKED) $(TELL) 2>/dev/null),$(shell $(PYTHON) $(TELL)))
STAMP := .venv/stamp-$(VERSION)
DEMO_ARGS ?=
MINUTES ?= 20
SOAK_ARGS ?=
SECONDS ?= 60
BENCH_ARGS ?=
DAGSTER_PORT ?= 3000
PEERS_ARGS ?=

# What tests/tools.sh has fetched without installing it.
export PATH := $(CURDIR)/.cache/tools/usr/bin:$(CURDIR)/.cache/tools/usr/sbin:$(PATH)

.PHONY: setup tools lock format docs check test fuzz bounds soak demo dagster bench peers clean

setup: $(STAMP)

# A .venv of another Python, or one that was left half made, is made anew.
$(STAMP): requirements.lock pyproject.toml
	@$(BIN)/python$(VERSION) -m pip --version >/dev/null 2>&1 || \
		{ PYTHON=$(PYTHON) tests/tools.sh venv && echo "making .venv with Python $(VERSION)" && $(PYTHON) -m venv --clear .venv; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q src
	touch $(STAMP)

# All that the tests call beside Python packages: installed where that needs no password, else told.
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

# Without any service, under a minute.
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest -q -n auto tests/unit tests/property

# Everything, against a real Kafka and a real Postgres. Here no test is skipped for want of a tool. A test with services
# mostly waits, so there are more workers than a small machine has cores; each has a Kafka and a Postgres of its own.
test: export TICKLOOM_TEST_TOOLS := all
test: tools
	$(MAKE) --no-print-directory check
	$(BIN)/pytest -n 3 --dist worksteal --durations=15 tests/integration tests/contract tests/acceptance tests/fuzz

# Look for bytes on which the readers and their judge differ, or that end the process; SECONDS=60.
fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# Replicas at work while everything around them breaks, for so many minutes; then the judge.
soak: setup
	@tests/tools.sh java mvn
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m tests.acceptance.chaos --minutes $(MINUTES) $(SOAK_ARGS)

# The long forms of tests/acceptance/test_bounds.py: a million symbols, a minute's stall, millions of messages.
bounds: setup
	@tests/tools.sh java mvn
	TICKLOOM_TEST_BOUNDS=long $(BIN)/pytest -s tests/acceptance/test_bounds.py

demo: setup
	$(BIN)/tickloom demo $(DEMO_ARGS)

# Broker, Postgres, producer, and Dagster's page on port 3000 with its schedule ticking; Ctrl-C ends all.
dagster: setup
	@tests/tools.sh broker
	$(BIN)/python -m tests.services $(BIN)/python deploy/dagster/local.py $(DAGSTER_PORT)

# What this machine does. The services are started for it, as users run them.
bench: setup
	@tests/tools.sh broker
	$(BIN)/python -m tests.services $(BIN)/tickloom bench $(BENCH_ARGS)

# Tickloom, and what people use today for the same work, on one log; prints the table of docs/explanation/comparison.md.
peers: setup
	@tests/tools.sh java mvn
	$(BIN)/python -m benchmarks $(PEERS_ARGS)

clean:
	rm -rf .venv .cache dist build .pytest_cache .ruff_cache .hypothesis
