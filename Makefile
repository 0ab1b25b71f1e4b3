.PHONY: help install run test soak lint bench faults accuracy clients edge clean
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The first of these that is 3.11 or later makes the environment; PYTHON=/path/to/python overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
PY := $(VENV)/bin/python
# The torch build. A machine without a GPU: TORCH_INDEX = the address of PyTorch's CPU wheels.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := $(PY) -m pip install -q -c constraints.txt
# setuptools warns of editable installations in a banner of ten lines; this one is meant.
EDITABLE := PYTHONWARNINGS='ignore:Editable installation' $(PIP) -e
RUN_READY := $(VENV)/.ready-run
TEST_READY := $(VENV)/.ready-test
quiet = $(if $(QUICK),--quick,)

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10
	@echo 'variables: QUICK=1 (shorter forms), ONCE=1 (make run ends after its table), TORCH_INDEX=URL (torch wheels of another index)'

install: $(RUN_READY) ## make .venv with the server, the engine and the command rivulet

run: $(RUN_READY) ## start the server, stream the samples, print a table, go on serving
	@$(VENV)/bin/rivulet demo $(if $(ONCE),--once,) $(quiet) $(ARGS)

test: $(TEST_READY) ## every test not marked slow or gpu
	@$(PY) -m pytest -q -p tests.figures $(if $(QUICK),-m 'not slow and not gpu and not model',) $(ARGS)

soak: $(TEST_READY) ## the slow tests: large models, long fuzzing, hours of audio, half an hour of live streams
	@$(PY) -m pytest -q -p tests.figures -m 'slow and not gpu' $(ARGS)
	@$(PY) -m tests.bench.endurance

lint: $(TEST_READY) ## format, style, types, import contracts
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

bench: $(RUN_READY) ## lag and streams sustained on this machine; last line: one JSON object
	@$(PY) -m tests.bench $(quiet) $(ARGS)

faults: $(RUN_READY) ## kill workers and connections under live streams; last line: one JSON object
	@$(PY) -m tests.bench.faults $(ARGS)

accuracy: $(RUN_READY) ## WER of every set beside this checkout; last line: one JSON object
	@$(PY) -m tests.bench.accuracy $(quiet) $(ARGS)

clients: $(TEST_READY) ## real clients of other services against this server; last line: one JSON object
	@$(PY) -m tests.clients $(quiet) $(ARGS)

edge: $(TEST_READY) ## what an edge relay, a cut and a handover cost; last line: one JSON object
	@$(PY) -m tests.bench.edge $(quiet) $(ARGS)

clean: ## remove the environment and everything built
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(PY):
	@test -n "$(PYTHON)" || { echo 'rivulet needs Python 3.11 or later: sudo apt-get install python3 python3-venv'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make environments: sudo apt-get install $(notdir $(PYTHON))-venv"; exit 1; }
	@echo 'making $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) 'pip>=25.1'

# torch first and alone: its index and build are chosen here and nothing later may change them.
$(RUN_READY): $(PY) pyproject.toml constraints.txt
	@echo 'installing rivulet and its engine into $(VENV) (once)'
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),) '$(TORCH)'
	@$(EDITABLE) '.[engine]' || $(compiler_hint)
	@$(PY) -m asr.native || true  # without a compiler the engine says so and runs slower
	@touch $@

$(TEST_READY): $(RUN_READY)
	@echo 'installing the tools and NeMo, the oracle of the tests, into $(VENV) (once)'
	@$(EDITABLE) '.[engine,edge,nemo]' --group dev || $(compiler_hint)
	@$(PIP) --no-deps resemblyzer  # weights alone: what it asks for is old and heavy
	@touch $@

compiler_hint = { command -v c++ >/dev/null || \
  echo 'a package had to be compiled and there is no compiler: sudo apt-get install build-essential python3-dev'; exit 1; }
