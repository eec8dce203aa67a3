PYTHON ?= python3
BIN := .venv/bin
ASV := $(BIN)/asv --config benchmarks/asv.conf.json
# What to compare with: the last release, or where there is none the last commit.
BASE = $(shell git describe --tags --abbrev=0 HEAD^ 2>/dev/null || git rev-parse HEAD^)
# A regular expression of what to time.
BENCH = .

.PHONY: demo test torture lint format docs kernels bench bench-compare peers dist clean

demo: .venv/.demo
	$(BIN)/sppfast demo --out sppfast-demo

test: .venv/.dev
	$(MAKE) --jobs=2 --output-sync lint docs kernels
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

torture: .venv/.dev .venv/.release
	cd tests && ../$(BIN)/python -m torture

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(ASV) check -E existing:same

format: .venv/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --nitpicky --keep-going docs docs/_build/html

# So that the tests do not do it one by one.
kernels: .venv/.dev
	$(BIN)/python tests/compile_kernels.py

bench: .venv/.dev
	$(ASV) machine --yes
	$(ASV) run --bench '$(BENCH)' 'HEAD^!'
	$(ASV) publish

# Not what asv tracks besides time and memory: it takes less for better, and more would fail.
bench-compare: .venv/.dev
	$(ASV) machine --yes
	$(ASV) continuous --factor 1.25 --bench '$(BENCH).*(time|timeraw|peakmem)_' $(BASE) HEAD

peers: .venv/.dev
	$(BIN)/sppfast bench --all

dist: .venv/.release
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf .venv .asv build dist docs/_build docs/generated sppfast-demo .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

# One stamp for each extra: made again when pyproject.toml changes, otherwise nothing is installed twice. Most of what is
# installed is never imported: what is, Python compiles then.
.venv/.%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[$*]'
	@touch $@
