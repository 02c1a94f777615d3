# make lab        install, and run the nine lessons               make test     the tests, offline
# make studies    one seed of all studies                         make bench    speed
# make figures    the committed run: eight seeds, an hour or more make lint     what CI checks, too
# make slides     the figures as a talk: outputs/slides           make tiny     the embedded models
# make page       the lab as one page: figures/lab.html           make clean    outputs/ goes
# make exercises  which of yours are right, which mistake it is
# PYTHON=python3.12 chooses the interpreter; an active virtual environment is used as it is.
PYTHON ?= python3
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
STAMP := $(VENV)/.lab-installed
SEEDS ?= 0 1 2 3 4 5 6 7
LAB := 05-preference-tuning
COMMITTED := --output-dir outputs/figures-run --figures-dir figures

.PHONY: lab studies test exercises figures page slides bench tiny lint clean

lab: $(STAMP)
	$(BIN)/python $(LAB)/run_all.py

studies: $(STAMP)
	$(BIN)/python $(LAB)/run_all.py --studies

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

exercises: $(STAMP)
	$(BIN)/python $(LAB)/exercises/check.py

# Nothing else writes to figures/. A run that was stopped goes on where it stopped.
figures: $(STAMP)
	$(BIN)/python $(LAB)/run_all.py --studies --seeds $(SEEDS) $(COMMITTED)
	$(BIN)/python $(LAB)/run_all.py $(COMMITTED)
	$(MAKE) page

page: $(STAMP)
	$(BIN)/python $(LAB)/classroom/page.py --output-dir figures

slides: $(STAMP)
	$(BIN)/python $(LAB)/classroom/slides.py

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
