# `make demo` and `make test` do all the set-up; nothing is installed twice while pyproject.toml stays as it is.
SHELL := /bin/bash
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check readme figures clean

demo: .venv/.installed
	@if [ -f out/demo/run.json ]; then rm -r out/demo; fi
	@$(BIN)/tetrisim compare default --systems vllm-v0,vllm-v1,tetriinfer --out out/demo
	@echo "Rows, summary, scenarios and figure are in out/demo."

test: .venv/.installed-test
	$(BIN)/python -m pytest -q -n 2

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The figures of the TetriInfer paper, and what came of them.
figures: .venv/.installed
	@$(BIN)/tetrisim figures --out out/figures

# Puts what the demo prints now into README.md.
readme: .venv/.installed
	$(BIN)/python tests/test_readme.py

clean:
	rm -rf .venv out

.venv/bin/python:
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "making .venv with $$($$python --version)"; \
	    $$python -m venv .venv || { rm -rf .venv; echo "error: cannot make .venv: on Debian or Ubuntu, apt install python3-venv" >&2; exit 2; }; \
	    exit 0; \
	  fi; \
	done; \
	echo "error: no Python of version 3.11 or newer on the path" >&2; exit 2

.venv/.installed: pyproject.toml | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/.installed-test: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[test]'
	@touch $@ .venv/.installed

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/.installed .venv/.installed-test
