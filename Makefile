# Two commands: `make run` and `make test`. Each sets itself up on a machine with Python 3.10+ and pip.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: run test clean

run: .venv/ready
	$(BIN)/fedbraid run

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --maxprocesses 4
	$(BIN)/python -m pytest -m slow tests

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[dev,timm]'
	touch $@

clean:
	rm -rf .venv build dist src/*.egg-info
