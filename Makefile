# Two commands do all set-up: `make sweep` runs the main job, `make test` passes the tests.
PYTHON ?= python3
SWEEP ?= freeze=head,full lr=1e-3,1e-4
VENV := .venv
PINS := requirements.txt
BIN := $(VENV)/bin
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest # what is compiled serves all processes that tests start

.PHONY: sweep test gpu check oldest docs faults bench ui lint format weights clean help

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

sweep: $(VENV)/.installed ## Set up, then compare feature extraction with fine-tuning
	$(BIN)/python train.py -m $(SWEEP)

test: $(VENV)/.installed-dev lint ## Set up, then run lint, format, type and import checks and the tests
	$(PYTEST) -n 2 --dist loadfile
	if nvidia-smi -L 2>/dev/null | grep -q GPU; then $(BIN)/pytest -m cuda; fi

gpu: $(VENV)/.installed-dev ## On a machine with a GPU: its tests, then the benchmarks, from where a call was cut off
	$(BIN)/pytest -m cuda
	$(BIN)/python benchmarks/run.py --device cuda --continue

check: $(VENV)/.installed-dev lint ## What people run between edits: lint, types, contracts, and the quick tests of single modules
	$(PYTEST) -n 2 --dist loadfile --ignore tests/system -m 'not slow'

oldest: ## The tests with the oldest libraries that pyproject.toml allows, in an environment of their own
	$(MAKE) .venv-oldest/.installed-dev VENV=.venv-oldest PINS=requirements-oldest.txt
	.venv-oldest/bin/pytest -n 2 --dist loadfile -o filterwarnings=default

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

ui: $(VENV)/.installed ## Open the MLflow UI on this project's records
	$(BIN)/python -m frostline ui

docs: $(VENV)/.installed-docs ## Build the pages into site/, which opens offline
	$(BIN)/sphinx-build -q -W --keep-going docs site

faults: $(VENV)/.installed-dev ## Kill, starve, crowd and damage sweeps, the long way, and count what is lost
	$(BIN)/python tests/faults.py --long

bench: $(VENV)/.installed ## Measure against a tutorial's loop, a fast one and the machine's limits (half an hour)
	$(BIN)/python benchmarks/run.py

weights: $(VENV)/.installed ## Train the embedded weights anew
	$(BIN)/python train.py experiment=pretrain_glyphs hydra.sweep.dir=multirun/pretrain_glyphs
	$(BIN)/python -m frostline.assets.ship multirun/pretrain_glyphs/0/best.safetensors

clean: ## Remove the environment; records stay
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(PINS) | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -q -c $(PINS) -e '.[timm]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check -q -c $(PINS) -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check -q -c $(PINS) -e '.[docs]'
	touch $@
