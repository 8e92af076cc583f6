# Everything here needs only python3 (3.11 or newer) and make; the first target run makes .venv with the versions of
# constraints.txt. Another Python: make test PYTHON=python3.13 VENV=.venv313
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-newest test-oldest test-slow test-gpu chaos soak check format bench build clean

help: ## Say what each target does
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[testing,demo]' --group dev
	@touch $@

install: $(STAMP) ## Make .venv and install everything into it

demo: $(STAMP) ## Watch real flow runs share two cards and a licence (under three minutes)
	$(BIN)/prefect-slots demo

test: $(STAMP) ## All tests but the slow ones (under six minutes on two cores)
	$(BIN)/python -m pytest -q -n 3 --dist loadgroup -m 'not slow and not gpu'

# The suites that another version of a library could break.
RING := tests/unit tests/property $(patsubst %,tests/integration/test_%.py,delayed_tasks gateway limit_events registration \
	requires_on_server task_runner task_runner_resources worker worker_type)
MET := prefect pydantic pydantic-settings httpx cloudpickle cyclopts rich filelock psutil nvidia-ml-py pytest hypothesis

# $(1): a virtual environment, made or brought up to date; $(2): pip's constraints.
define ring
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(1)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager $(2) --editable '.[testing,demo]' --group test
	@$(1)/bin/python -c 'import sys; from importlib.metadata import version; \
		print("$@ meets: python", sys.version.split()[0], *(f"{name} {version(name)}" for name in sys.argv[1:]))' $(MET)
	$(1)/bin/python -m pytest -q -n 3 --dist loadgroup -m 'not slow and not gpu' $(RING)
endef

test-newest: ## The unit, property and Prefect tests with the newest versions, whatever constraints.txt says
	$(call ring,$(VENV)-newest,)

test-oldest: ## The same with the oldest versions that pyproject.toml allows
	$(call ring,$(VENV)-oldest,--constraint constraints-oldest.txt)

test-slow: $(STAMP) ## The slow suites: long stress, every example of the hang bars
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m slow

test-gpu: $(STAMP) ## On a real NVIDIA card: what is true of every machine, and two processes' memory
	$(BIN)/python -m pytest -q -m gpu tests/gpu

MINUTES ?= 60
SEED ?= $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')

chaos: $(STAMP) ## Everything breaks at random for MINUTES (60), decided by SEED; then a verdict
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED)

# One play watches the laws that have a file each, so that an hour or two suffice.
SOAKED := all_laws_at_once belief disk_equals_model amounts_round_trip total_canonical_order bounded_overtaking

soak: $(STAMP) ## Each law with 100,000 examples (hours)
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -v -n 2 --timeout 0 --durations 0 \
		--deselect tests/property/test_bounded_overtaking.py::TestBoundedOvertaking::runTest \
		$(SOAKED:%=tests/property/test_%.py)

check: $(STAMP) ## Format, lint, strict types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(STAMP) ## Rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

BENCHMARKS := startup handoff uncontended server_load recovery makespan packing scale fleet runner pool

bench: $(STAMP) ## Ours and stock Prefect side by side, each under a minute
	@set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks $$name --quick; done

build: $(STAMP) ## Build the wheel
	$(BIN)/python -m build --wheel

clean: ## Remove what the targets made
	rm -rf $(VENV) $(VENV)-newest $(VENV)-oldest dist build .pytest_cache .ruff_cache .hypothesis
