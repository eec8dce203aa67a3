PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test torture lint format bench clean

demo: .venv/.demo
	$(BIN)/sppfast demo --out sppfast-demo

test: lint
	$(BIN)/python tests/compile_kernels.py
	$(BIN)/pytest

torture: .venv/.dev
	cd tests && ../$(BIN)/python -m torture

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/.dev
	$(BIN)/python benchmarks/peers.py

clean:
	rm -rf .venv build dist sppfast-demo .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

# One stamp for each extra: made again when pyproject.toml changes, otherwise nothing is installed twice.
.venv/.%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
