# Everything runs in $(VENV), made on first use with nothing but Python 3.11+ and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# In the order of the files, whose last ones are short, so that no worker is left alone for long.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
BENCH_ARGS ?=
N ?= 20
SECONDS ?= 60
KINDS ?=
LIVE ?=
SAMPLES ?=
KERNEL_ARGS ?=
PYTHONS ?= python3.12 python3.13
# What differs between versions of Python shows here: the commands, the parsers, files, processes.
PORTABLE := tests/project/test_door.py tests/project/test_sweep.py tests/analyzer/test_cli.py \
  tests/analyzer/screen tests/analyzer/reading tests/recorder/wire tests/recorder/diag tests/recorder/store

# What differs between versions of DuckDB shows here: every report, finding, view and part is run once
# and compared with its golden or its truth, of one host and of several; what is refused; what is told
# of errors, of memory too.
QUERYING := $(patsubst %,tests/analyzer/sql/test_%.py,samples summary findings views library catalog hosts \
  engine attacks complaint landlock memory) \
  tests/analyzer/test_prompt.py tests/analyzer/ss/test_synthetic.py tests/analyzer/sharing/test_export.py

CHECKED := $(wildcard recorder analyzer queries tests benchmarks samples docs sockrec.py)
TYPED := $(wildcard recorder analyzer tests benchmarks samples docs sockrec.py)

# Isolated builds take the pinned build backend too; older pips know the first name only.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(PIP_CONSTRAINT)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH PYTHONHOME

.DELETE_ON_ERROR:
.PHONY: help demo samples test test-often test-kernels torture bench lint format docs wheel test-duckdb15 test-pythons test-python constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.runtime ## record a real workload on loopback for 6 s and say what is wrong with it
	rm -rf demo-recording
	$(BIN)/sockrec record -o demo-recording -i 500ms -- $(BIN)/python samples/demo.py
	$(BIN)/sockrec info demo-recording
	$(BIN)/sockrec summary demo-recording
	$(BIN)/sockrec report process_sockets demo-recording

samples: $(VENV)/.runtime ## record the incidents of samples/ anew, or SAMPLES="NAME..." (root, 8 minutes)
	$(BIN)/python -m samples $(SAMPLES)

test: lint ## lint, types, import contracts, tests, and the wheel without dev packages
	$(BIN)/pytest $(PYTEST_ARGS) --tell $(VENV)/.told
	$(MAKE) --no-print-directory wheel
	@echo "make test: all is well. Run: lint, types, import contracts, the wheel, and the tests: $$(cat $(VENV)/.told)"

test-often: $(VENV)/.dev ## run the tests N=20 times, quiet and beside others; LIVE=1: those of live sockets only
	$(BIN)/python -m tests.often $(N) $(PYTEST_ARGS) $(if $(LIVE),-m live)

test-kernels: $(VENV)/.dev ## run the live tests under other kernels, or KERNEL_ARGS="6.12 --short" (root, QEMU)
	$(BIN)/python -m tests.kernels $(KERNEL_ARGS)

lint: $(VENV)/.dev ## ruff, mypy --strict and the import contracts
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports --no-logo --no-cache

format: $(VENV)/.dev ## let ruff repair what it can
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

torture: $(VENV)/.dev ## break what can break for SECONDS=60, and compare with what is known to be true
	$(BIN)/python tests/alone.py -m tests.torture --seconds $(SECONDS) $(KINDS)

bench: $(VENV)/.runtime ## measure CPU, bytes and lateness against the targets (minutes)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(VENV)/.runtime ## write schema.md, views.md, reports.md and the man page from what they describe
	$(BIN)/python docs/generate_schema.py > docs/schema.md.new
	$(BIN)/python docs/generate_queries.py views > docs/views.md.new
	$(BIN)/python docs/generate_queries.py reports > docs/reports.md.new
	$(BIN)/python docs/generate_man.py > docs/sockrec.1.new
	mv docs/sockrec.1.new docs/sockrec.1
	for page in schema views reports; do mv docs/$$page.md.new docs/$$page.md || exit; done

wheel: $(VENV)/.dev ## build wheel and sdist and try them without dev packages
	$(BIN)/python .ci/wheel_smoke.py

test-pythons: ## tests by each of PYTHONS="python3.12 ..." that is there, beside the one of make test
	@for python in $(PYTHONS); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || \
	    { echo "make test-pythons: there is no $$python here"; continue; }; \
	  $(MAKE) --no-print-directory test-python PYTHON=$$python VENV=.venv-$$version || exit; \
	done

test-python: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST_ARGS) $(PORTABLE)

test-duckdb15: .venv-duckdb15/.dev ## the tests of what DuckDB does with its oldest supported version
	.venv-duckdb15/bin/pytest $(PYTEST_ARGS) $(QUERYING)

constraints: ## take the newest version of every dependency into constraints.txt
	rm -rf .venv-constraints
	$(PYTHON) -m venv .venv-constraints
	env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT .venv-constraints/bin/pip install -q -e '.[dev]'
	{ head -1 constraints.txt; .venv-constraints/bin/pip freeze --exclude-editable | LC_ALL=C sort -f; } > constraints.txt.new
	mv constraints.txt.new constraints.txt
	rm -rf .venv-constraints

clean: ## remove what make made, the environments included
	rm -rf .venv .venv-3.* .venv-duckdb15 .venv-constraints .kernels demo-recording dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# An environment, its stamps newer than what was installed into it.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'make: $(PYTHON) is not Python 3.11 or newer; install it or say make PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'make: $(PYTHON) lacks venv or ensurepip; install its package (Debian: python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.runtime $@

.venv-duckdb15/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-duckdb15
	sed 's/^duckdb==.*/duckdb==1.5.5/' constraints.txt > .venv-duckdb15/constraints.txt
	PIP_CONSTRAINT=$(CURDIR)/.venv-duckdb15/constraints.txt PIP_BUILD_CONSTRAINT= \
	  .venv-duckdb15/bin/python -m pip install -q -e '.[dev]'
	@touch $@
