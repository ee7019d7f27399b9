# `make quickstart` and `make test` need nothing but Python 3.11 to 3.13 with venv; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: quickstart check test test-old test-slow bench-efficiency clean

quickstart: .venv/.installed
	$(BIN)/wren quickstart

# Format, lint, types, and who may import whom.
check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest tests/test_imports.py

test: .venv/.installed-dev
	$(BIN)/pytest

# The same on a machine without Triton, bf16 and torch.compile, such as one with a P100.
test-old: .venv/.installed-dev
	$(BIN)/pytest --old-machine

# Kill loops, soaks and fuzzing.
test-slow: .venv/.installed-dev
	$(BIN)/pytest -m slow

# Time to a loss, state and decoding beside nanoGPT, llama and Muon, in at most 30 minutes of two cores: TEXT=... names
# tinyshakespeare, CORPUS=... (and CORPUS_VAL=...) a corpus or a folder of `wren data`; without them less is measured.
TEXT ?= $(wildcard tinyshakespeare.txt)
bench-efficiency: .venv/.installed
	$(BIN)/python bench/efficiency.py $(if $(TEXT),--text "$(TEXT)") $(if $(CORPUS),--corpus "$(CORPUS)") \
	  $(if $(CORPUS_VAL),--corpus-val "$(CORPUS_VAL)") $(ARGS)

clean:
	rm -rf .venv build *.egg-info

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
	  sys.exit(None if ok else "Wren needs Python 3.11 to 3.13, not %s; use make PYTHON=python3.11." % sys.version.split()[0])'
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) '.[shakespeare]'
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) '.[dev,shakespeare]'
	@touch $@ .venv/.installed
