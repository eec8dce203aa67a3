PYTHON ?= python3
BIN := .venv/bin
ASV := $(BIN)/asv --config benchmarks/asv.conf.json
# What to compare with: the last release, or where there is none the last commit.
BASE = $(shell git describe --tags --abbrev=0 HEAD^ 2>/dev/null || git rev-parse HEAD^)

.PHONY: demo test lint format bench bench-compare peers clean

demo: .venv/.demo
	$(BIN)/sppfast demo --out sppfast-demo

test: lint
	$(BIN)/python tests/compile_kernels.py
	$(BIN)/pytest

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(ASV) check -E existing:same

format: .venv/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/.dev
	$(ASV) machine --yes
	$(ASV) run 'HEAD^!'
	$(ASV) publish

bench-compare: .venv/.dev
	$(ASV) machine --yes
	$(ASV) continuous --factor 1.25 $(BASE) HEAD

peers: .venv/.dev
	$(BIN)/sppfast bench --all

clean:
	rm -rf .venv .asv build dist sppfast-demo .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

# One stamp for each extra: made again when pyproject.toml changes, otherwise nothing is installed twice.
.venv/.%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
