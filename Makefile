# `make demo` and `make test` need Python 3.11+ and nothing else.
PYTHON ?= python3
# The build of torch to install: any requirement with pip's options, before the first `make`.
TORCH ?= torch==2.13.0
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# What was tested, but for torch, which TORCH chooses.
PINS := $(VENV)/constraints.txt
DEMO_READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
# The other environment of `make parity`; PARITY_PYTHON names one that has sae-lens already.
PARITY_VENV := .venv-parity
PARITY_READY := $(PARITY_VENV)/.ready
PARITY_PYTHON ?= $(PARITY_VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint bench parity faults protos directory default-model clean

help:  ## What there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(DEMO_READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "saekit needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@grep -v '^torch==' constraints.txt > $(PINS)
	@echo "installing $(TORCH) and saekit into $(VENV); this takes a few minutes"
	$(BIN)/python -m pip install --quiet -c $(PINS) $(TORCH)
	$(BIN)/python -m pip install --quiet -c $(PINS) -e ".[all]"
	touch $@

$(DEV_READY): $(DEMO_READY)
	$(BIN)/python -m pip install --quiet -c $(PINS) --group dev
	touch $@

demo: $(DEMO_READY)  ## Serve, encode, decode, splice, steer, train and hot-load, on the embedded model
	$(BIN)/saekit demo $(ARGS)

serve: $(DEMO_READY)  ## A server on the embedded model, until Ctrl-C
	$(BIN)/saekit serve $(ARGS)

test: $(DEV_READY)  ## All tests (ARGS="-k name" for some)
	$(BIN)/python -m pytest $(ARGS)

lint: $(DEV_READY)  ## Style, types, and whether generated code is fresh
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy protos/saekit/codec core server client trainer
	scripts/protos --check

bench: $(DEV_READY)  ## Measure, side by side (half an hour; ARGS="alone --check" for some)
	$(BIN)/python -m benchmarks $(ARGS)

$(PARITY_READY):
	test -x $(PARITY_VENV)/bin/python || $(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_VENV)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	@echo "installing $(TORCH) and sae-lens into $(PARITY_VENV); this takes a few minutes"
	$(PARITY_VENV)/bin/python -m pip install --quiet $(TORCH)
	$(PARITY_VENV)/bin/python -m pip install --quiet "sae-lens==6.54.*" "transformer-lens<4"
	touch $@

parity: $(DEV_READY) $(if $(filter $(PARITY_VENV)/%,$(PARITY_PYTHON)),$(PARITY_READY))  ## Hold saekit to sae-lens, both ways (docs/compatibility.md)
	$(BIN)/python -m tests.parity --peer $(PARITY_PYTHON) $(ARGS)

faults: $(DEV_READY)  ## Kill training runs at random moments, go on, compare every byte (10 minutes)
	$(BIN)/python -m tests.faults $(ARGS)

protos: $(DEV_READY)  ## Regenerate the Python of the .proto files
	scripts/protos

directory: $(DEV_READY)  ## Refresh the directory of public SAEs (ARGS=--check: compare it with its source)
	$(BIN)/python scripts/release_directory.py $(ARGS)

default-model: $(DEMO_READY)  ## Train the embedded model and its SAEs: make default-model TEXT=stories.txt
	@test -n "$(TEXT)" || { echo 'usage: make default-model TEXT=stories.txt' >&2; exit 2; }
	$(BIN)/python -m saekit_trainer.default_model --text "$(TEXT)" --training.compile
	$(BIN)/python -m saekit_trainer.default_model.saes --text "$(TEXT)"

clean:  ## Remove the environment and everything that was made
	rm -rf $(VENV) $(PARITY_VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
