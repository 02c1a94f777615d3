# make lab        install, and run all scripts with one seed      make test     the tests, offline
# make figures    the committed run, eight seeds (an hour)        make bench    speed
# make slides     the figures as a talk: outputs/slides            make lint     what CI checks, too
# make page       the lab as one page: figures/lab.html
# make exercises  which of yours are right, which mistake it is    make clean    outputs/ goes
# PYTHON=python3.12 chooses the interpreter; an active virtual environment is used as it is.
PYTHON ?= python3
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
STAMP := $(VENV)/.lab-installed
SEEDS ?= 0 1 2 3 4 5 6 7

.PHONY: lab test exercises figures page slides bench tiny lint clean

lab: $(STAMP)
	$(BIN)/python 05-preference-tuning/run_all.py

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

exercises: $(STAMP)
	$(BIN)/python 05-preference-tuning/exercises/check.py

# Nothing else writes to figures/. A run that was stopped goes on where it stopped.
figures: $(STAMP)
	$(BIN)/python 05-preference-tuning/run_all.py --seeds $(SEEDS) --output-dir outputs/figures-run --figures-dir figures
	$(MAKE) page

page: $(STAMP)
	$(BIN)/python 05-preference-tuning/page.py --output-dir outputs/figures-run --figures-dir figures

slides: $(STAMP)
	$(BIN)/python 05-preference-tuning/slides.py

bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py

# The embedded models, from nothing.
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
