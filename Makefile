PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format docs bench dist clean

demo: .venv/.demo
	$(BIN)/sppfast demo --out sppfast-demo

test: lint docs
	$(BIN)/python tests/compile_kernels.py
	$(BIN)/pytest

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --nitpicky --keep-going docs docs/_build/html

bench: .venv/.dev
	$(BIN)/python benchmarks/peers.py

dist: .venv/.release
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf .venv build dist docs/_build docs/generated sppfast-demo .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

# One stamp for each extra: made again when pyproject.toml changes, otherwise nothing is installed twice.
.venv/.%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
