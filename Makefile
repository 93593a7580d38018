# SPDX-License-Identifier: Apache-2.0
#
# Every target sets up what it needs, Debian packages included, says what it does, and does nothing
# that is done already.
#
#   PYTHON=/path/to/python3   make .venv from this one (default: tools/find-python.sh)
#   SYSTEM_PACKAGES=skip      install no Debian packages: they are there by other means
#   BCC_HEADERS=PACKAGE       kernel headers for the bcc tests (default: tools/system-packages.sh)
#   ARGS='…'                  more arguments for cap-exporter run, pytest or the benchmarks

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Stamps: when a step was done last.
DONE := $(VENV)/done
OBJECT := cap_exporter/_bpf/cap_checks.bpf.o
BPF_SOURCES := $(wildcard bpf/*.c bpf/*.h) $(shell find bpf/bcc-headers -name "*.h")
CHECKED := $(wildcard cap_exporter tests benchmarks dashboards demo tools hatch_build.py)

.PHONY: help build run test check bench lock format pictures docs man clean build-packages run-packages test-packages \
	python-choice

help: ## Say what there is
	@echo 'cap-exporter: make TARGET'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r target what; do \
	fold -s -w 66 <<<"$$what" | { read -r first; printf '  %-11s %s\n' "$$target" "$$first"; sed 's/^/              /'; }; \
	done

build: $(DONE)/project $(OBJECT) ## Make .venv with the cap-exporter command, and the BPF object; start nothing
	@echo 'Built: $(BIN)/cap-exporter'

run: build run-packages ## Build, then count this host's capability checks until Ctrl-C (root)
	@echo 'cap-exporter counts this host'"'"'s capability checks from now on. Where to look:'
	@echo '  http://localhost:10838/metrics   the metrics; those that start with capability_'
	@echo '  http://localhost:10839/          a page for people'
	@echo 'Ctrl-C ends it.'
	@if [[ $$EUID == 0 ]]; then exec $(BIN)/cap-exporter run $(ARGS); \
	elif command -v sudo >/dev/null; then exec sudo $(BIN)/cap-exporter run $(ARGS); \
	else echo 'Counting needs root, and there is no sudo. As root: $(BIN)/cap-exporter run' >&2; exit 1; fi

test: $(DONE)/dev $(DONE)/project $(OBJECT) run-packages test-packages ## Run the tests: unit, real kernel, end to end
	@[[ $$EUID == 0 ]] || echo 'Not root: the kernel tests are skipped. sudo make test runs them all.'
	@$(BIN)/python -m pytest tests/unit tests/fuzz tests/rules tests/deploy tests/kernel tests/e2e $(ARGS)

check: $(DONE)/dev $(OBJECT) ## Check style and types, and that the C compiles without a warning
	@echo 'ruff check, ruff format --check, mypy --strict'
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/ruff format --check $(CHECKED)
	@$(BIN)/mypy $(CHECKED)

format: $(DONE)/dev ## Rewrite the Python files in the style that check asks for
	@$(BIN)/ruff check --fix $(CHECKED)
	@$(BIN)/ruff format $(CHECKED)

man: $(DONE)/project ## Make man/cap-exporter.1 from what the commands say
	@$(BIN)/python tools/make_man.py
	@echo 'man -l man/cap-exporter.1 shows it'

bench: $(DONE)/dev $(DONE)/project $(OBJECT) run-packages test-packages ## Measure what counting costs (root)
	@tools/system-packages.sh benchmarks/packages.txt
	@$(BIN)/python -m benchmarks $(ARGS)

# One resolution for every Python and machine that is supported; no address of a registry in it.
UV := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'
lock: $(VENV)/bin/python ## Pin the newest versions that pyproject.toml allows in requirements*.lock
	@$(PIP) install uv
	@$(UV) pyproject.toml -o requirements.lock
	@$(UV) --group build -c requirements.lock -o requirements-build.lock
	@$(UV) pyproject.toml --group dev -c requirements.lock -c requirements-build.lock -o requirements-dev.lock
	@$(UV) --group supply -c requirements.lock -c requirements-dev.lock -o requirements-supply.lock

pictures: $(DONE)/dev $(DONE)/project $(OBJECT) run-packages test-packages ## Make docs/pictures and the output in docs/tour.md anew (root; some ten minutes)
	@$(BIN)/python tools/draw_dashboards.py
	@$(BIN)/python tools/take_pictures.py
	@$(BIN)/python tools/make_tour.py

docs: $(DONE)/dev ## Make the documentation a site in site/; a broken link is an error
	@$(BIN)/python tools/make_site.py

clean: ## Remove all that was built here (Debian packages stay)
	rm -rf $(VENV) .tools dist site .site-pages .cache cap_exporter/_bpf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

build-packages:
	@tools/system-packages.sh tools/packages/build.txt

run-packages:
	@tools/system-packages.sh tools/packages/run.txt

test-packages: | $(BIN)/python
	@tools/system-packages.sh tools/packages/test.txt
	@tools/unpack-prometheus.sh .tools
	@$(BIN)/python tools/unpack-helm.py .tools

# A PYTHON that was asked for is not silently another one.
WHICH := import sys; print(sys.base_prefix, *sys.version_info[:3])
python-choice:
ifneq ($(filter command environment,$(subst command line,command,$(origin PYTHON))),)
	@[[ ! -e $(BIN)/python || $$($(BIN)/python -c '$(WHICH)') == $$('$(PYTHON)' -c '$(WHICH)') ]] || \
	{ echo '$(VENV) was made from another Python than $(PYTHON): make clean first' >&2; exit 1; }
endif

$(BIN)/python: | build-packages python-choice
	@python=$(if $(PYTHON),'$(PYTHON)',$$(tools/find-python.sh)); \
	echo "Making the virtual environment $(VENV) from $$python"; \
	"$$python" -m venv --clear $(VENV)
	@mkdir -p $(DONE)

$(DONE)/runtime: requirements.lock requirements-build.lock | $(BIN)/python
	@echo 'Installing the Python packages that requirements.lock pins'
	@$(PIP) install --require-hashes -r requirements.lock -r requirements-build.lock
	@touch $@

$(DONE)/dev: requirements-dev.lock | $(DONE)/runtime
	@echo 'Installing the Python packages that requirements-dev.lock pins (tests and checks)'
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

$(DONE)/project: pyproject.toml hatch_build.py cap_exporter/__init__.py $(DONE)/runtime
	@echo 'Compiling the BPF program and installing the cap-exporter command (editable)'
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(OBJECT): $(BPF_SOURCES) tools/compile_bpf.py | $(BIN)/python
	@echo 'Compiling the BPF program'
	@$(BIN)/python tools/compile_bpf.py

include demo/demo.mk
include tests/k8s/k8s.mk
include tests/vm/vm.mk
include tests/otel/otel.mk
include tests/fuzz/fuzz.mk
include tests/soak/soak.mk
include tools/supply.mk
include tests/image/image.mk
