# `make sweep` and `make test` set everything up first; `make help` lists all targets.
PYTHON ?= python3
SWEEP ?= freeze=head,full lr=1e-3,1e-4
VENV := .venv
PINS := requirements.txt
BIN := $(VENV)/bin
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest # keep bytecode for the many processes that tests start

.PHONY: sweep test gpu check oldest docs faults bench ui lint format weights clean help

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

sweep: $(VENV)/.installed ## Set up, then compare feature extraction with fine-tuning
	$(BIN)/python train.py -m $(SWEEP)

test: $(VENV)/.installed-dev lint ## Set up, then run lint, format, type and import checks and the tests
	$(PYTEST) -n 2 --dist loadfile
	if nvidia-smi -L 2>/dev/null | grep -q GPU; then $(BIN)/pytest -m cuda; fi

gpu: $(VENV)/.installed-dev ## On a machine with a GPU: its tests, then the benchmarks; resumes after an interruption
	$(BIN)/python benchmarks/run.py --device cuda --continue --only machine # fails at once without a GPU
	$(BIN)/pytest -m cuda; tested=$$?; $(BIN)/python benchmarks/run.py --device cuda --continue && exit $$tested

check: $(VENV)/.installed-dev lint ## Between edits: lint, types, import contracts and the quick tests
	$(PYTEST) -n 2 --dist loadfile --ignore tests/system -m 'not slow'

oldest: ## Run the tests with the oldest libraries that pyproject.toml allows, in a separate environment
	$(MAKE) .venv-oldest/.installed-dev VENV=.venv-oldest PINS=requirements-oldest.txt
	.venv-oldest/bin/pytest -n 2 --dist loadfile -o filterwarnings=default

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## Format the code and apply automatic fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

ui: $(VENV)/.installed ## Open the MLflow UI on this project's runs
	$(BIN)/python -m frostline ui

docs: $(VENV)/.installed-docs ## Build the documentation into site/, which opens offline
	$(BIN)/sphinx-build -q -W --keep-going docs site

faults: $(VENV)/.installed-dev ## Long fault injection: kill, starve, crowd and damage sweeps, and count losses
	$(BIN)/python tests/faults.py --long

bench: $(VENV)/.installed ## Measure against a tutorial's loop, a fast one and the machine's limits (half an hour)
	$(BIN)/python benchmarks/run.py

weights: $(VENV)/.installed ## Train the embedded weights again
	$(BIN)/python train.py experiment=pretrain_glyphs hydra.sweep.dir=multirun/pretrain_glyphs
	$(BIN)/python -m frostline.assets.ship multirun/pretrain_glyphs/0/best.safetensors

clean: ## Remove the environment; runs and records stay
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
