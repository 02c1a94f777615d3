# make lab    install and run all scripts      make test   lint-free test run, offline
# PYTHON=python3.12 chooses the interpreter; an active virtual environment is used as it is.
PYTHON ?= python3
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
STAMP := $(VENV)/.lab-installed

.PHONY: lab test figures bench tiny lint clean

lab: $(STAMP)
	$(BIN)/python 05-preference-tuning/run_all.py

test: $(STAMP)
	$(BIN)/python -m pytest

# The committed figures and tables: the default run of every script, from nothing, over three seeds.
figures: $(STAMP)
	rm -rf outputs
	$(BIN)/python 05-preference-tuning/run_all.py --seeds 0 1 2

bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py

tiny: $(STAMP)
	$(BIN)/python -m common.tiny

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf outputs build *.egg-info .pytest_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[hf,training,test]"
	touch $@
