PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
RUN ?= runs/demo

.PHONY: help setup demo test all-tests lint docs bench notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/ready ## make .venv with the pinned packages

$(VENV)/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## train, calibrate, evaluate on held-out specimens, print the table; results in runs/demo
	$(PY) -m experiments.train demo --output $(RUN)
	$(PY) -m experiments.calibrate --checkpoint $(RUN) --specimens 32
	$(PY) -m experiments.evaluate --checkpoint $(RUN) --output $(RUN) --masks all learnt oracle

test: setup ## run the tests
	$(PY) -m pytest

all-tests: setup ## also those that compile for minutes
	$(PY) -m pytest -m "slow or not slow"

lint: setup ## style, types, layers, dead code, sizes and headers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/vulture
	$(PY) .ci/check_style.py

docs: setup ## build the documentation in docs/_build; every warning is an error
	$(VENV)/bin/sphinx-build -W --keep-going -b html docs docs/_build

bench: setup ## time all parts, their limits and their growth; with BASE=CHECKOUT also beside that build
	$(PY) -m experiments.benchmarks.speed
	$(PY) -m experiments.benchmarks.registration
	$(PY) -m experiments.benchmarks.roofline
	$(PY) -m experiments.benchmarks.scaling
	$(if $(BASE),$(PY) -m experiments.benchmarks.before_after $(BASE))

notebooks: setup ## execute every notebook; with their pictures in runs/notebooks
	@mkdir -p runs/notebooks
	@for source in notebooks/*.py; do \
	  made=runs/notebooks/$$(basename $$source .py).ipynb; \
	  $(PY) -m jupytext --quiet --to notebook --output $$made $$source && \
	  $(VENV)/bin/jupyter-execute --inplace --timeout 600 $$made && echo $$made || exit 1; \
	done

clean: ## remove .venv, runs and caches
	rm -rf $(VENV) runs build docs/_build docs/notebooks docs/jupyter_execute *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
