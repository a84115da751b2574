PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

# Debian keeps Python's venv module in a package of its own.
define install-venv-module
echo "venv: $(PYTHON) has no venv module, installing Debian's python3-venv" >&2; \
sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
{ $$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends python3-venv; } >&2 || \
{ echo "venv: that failed; as root, run: apt-get install python3-venv, or give another Python: make PYTHON=…" >&2; exit 1; }
endef

.DEFAULT_GOAL := help

.PHONY: help
help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: venv
venv: $(STAMP)  ## .venv with cellwork, editable, and the development tools

$(STAMP): pyproject.toml
	@[ -x $(VENV)/bin/pip ] || $(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(install-venv-module); }
	@[ -x $(VENV)/bin/pip ] || $(PYTHON) -m venv --clear $(VENV)
	@echo 'venv: installing cellwork and its tools into $(VENV); a minute or two, once' >&2
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.PHONY: engine
engine:  ## a Docker engine that answers; one is installed and started where there is none
	@scripts/engine.sh

.PHONY: images
images: engine  ## the base images of the tests and the demo
	@scripts/base-images.sh

.PHONY: programs
programs:  ## what only tests need: chromium, an SSH server, Podman
	@scripts/programs.sh

.PHONY: test
test: venv engine images programs  ## everything: lint, types, imports, unit tests, tests with real containers
	@scripts/test.sh

.PHONY: lint
lint: venv  ## ruff, mypy, import-linter
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

MERMAID := build/mermaid.min.js

# What draws the pages' diagrams. Where npm is not there a reader's browser gets it from a public server.
$(MERMAID):
	@mkdir -p $(@D)
	@cd $(@D) && npm pack --silent mermaid@11.12.0 >/dev/null && tar -xzf mermaid-11.12.0.tgz --strip-components=2 \
	    package/dist/mermaid.min.js && rm mermaid-11.12.0.tgz || echo "docs: no npm, so without a copy of Mermaid" >&2

# About the future of its tools, which concerns no reader.
docs docs-serve: export NO_MKDOCS_2_WARNING := 1

.PHONY: docs
docs: venv $(MERMAID)  ## the documentation as a site, in site/
	$(VENV)/bin/mkdocs build --strict

PORT ?= 8000

.PHONY: docs-serve
docs-serve: venv $(MERMAID)  ## the same on http://127.0.0.1:8000, while it is written: make docs-serve PORT=8000
	$(VENV)/bin/mkdocs serve --strict --dev-addr 127.0.0.1:$(PORT)

.PHONY: demo
demo: venv  ## a tour on this machine: starts what is missing, shows it, stops it again
	@scripts/demo.sh

.PHONY: up
up: venv  ## the same, and it keeps running for a look around
	@scripts/demo.sh --keep

# Options: .venv/bin/python -m benchmarks --help
BENCH ?=

.PHONY: bench
bench: venv engine images  ## the benchmarks behind the numbers in the documentation: make bench BENCH="--calls 10"
	@$(VENV)/bin/python -m benchmarks $(BENCH)

EXAMPLES ?= 50000

.PHONY: fuzz
fuzz: venv  ## the long form of tests/unit/test_frames_fuzz.py: make fuzz EXAMPLES=50000
	@FUZZ_EXAMPLES=$(EXAMPLES) $(VENV)/bin/pytest --timeout=0 -q tests/unit/test_frames_fuzz.py

SEEDS ?= 50

.PHONY: chaos
chaos: venv engine images  ## the long form of tests/chaos: make chaos SEEDS=50
	@cd tests && ../$(VENV)/bin/python -m chaos --seeds $(SEEDS)
