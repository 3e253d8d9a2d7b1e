# make fit: from a fresh clone to a report.   make test: everything that must pass before a commit.   make docs: the site.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --quiet --quiet --disable-pip-version-check install
# one for all, as most of what is looked at is torch
export MYPY_CACHE_DIR := $(CURDIR)/.mypy_cache
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

# As many processes as there are cores, each with one thread; a file's tests stay together, for what they share.
TESTS := pytest --numprocesses auto --dist loadfile
export OMP_NUM_THREADS ?= 1

# A module of Python, run for the core and then in every plugin's folder: each has settings of its own.
define everywhere
@set -e; for place in . $(PLUGINS); do echo "== $$place: $(1)"; (cd $$place && $(CURDIR)/$(RUN) -m $(1)); done
endef

.PHONY: fit test test-all check bench docs clean

fit: $(VENV)/.fit
	$(RUN) -m kdcore fit recipes/quickstart.yaml

test: check
	$(call everywhere,$(TESTS) -m "not slow")

test-all: check
	$(call everywhere,$(TESTS))

check: $(VENV)/.test
	$(RUN) -m ruff check
	$(call everywhere,mypy)
	$(VENV)/bin/lint-imports --no-cache

bench: $(VENV)/.test
	@set -e; for file in benchmarks/*.py; do [ -e "$$file" ] || continue; echo "== $$file"; $(RUN) "$$file"; done

# Sphinx's source is the whole repository, so that links between pages are those of the files.
docs: $(VENV)/.docs
	$(RUN) -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs --doctree-dir build/doctrees . build/site
	@echo "the site: build/site/index.html"

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +

# A stamp is newer than what it was made from, so that a second call installs nothing again.
$(VENV)/.fit: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdcore needs Python 3.11 or newer; choose one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[digits]"
	@touch $@

$(VENV)/.docs: $(VENV)/.fit
	$(PIP) --editable ".[docs]"
	@touch $@

$(VENV)/.test: $(VENV)/.fit $(addsuffix /pyproject.toml,$(PLUGINS))
	$(PIP) --editable ".[dev]" $(foreach plugin,$(PLUGINS),--editable ./$(plugin))
	@touch $@
