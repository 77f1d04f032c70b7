# Ringvault: every command a developer or the CI needs. `make help` lists them.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=

EXT_SOURCES := $(wildcard cext/*.pyx cext/*.pxd cext/*.h)
EXT_MODULES := $(sort $(patsubst cext/%.pyx,cext.%,$(wildcard cext/*.pyx)))

ASAN_DIR := build/asan
# libstdc++ rides along so that ASan finds the C++ exception hooks wheels need later.
ASAN_PRELOAD = $(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libstdc++.so.6)
ASAN_ENV = LD_PRELOAD="$(strip $(ASAN_PRELOAD))" PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$(CURDIR)/$(ASAN_DIR)"

.DEFAULT_GOAL := help
.PHONY: help install native run test lint format stubtest asan bench lock clean distclean

help:
	@echo 'make install          create .venv, install the locked packages, build the extensions'
	@echo 'make native           rebuild changed extensions only (CEXT_ONLY=a,b CEXT_DEBUG=1)'
	@echo 'make run ARGS=...     start the demo city'
	@echo 'make test ARGS=...    run pytest'
	@echo 'make lint             ruff and mypy --strict'
	@echo 'make format           let ruff rewrite the sources'
	@echo 'make stubtest         compare every cext stub with the compiled module'
	@echo 'make asan ARGS=...    run tests/cext on an AddressSanitizer build in $(ASAN_DIR)'
	@echo 'make bench ARGS=...   run the benchmarks'
	@echo 'make lock             write requirements.lock anew from pyproject.toml'
	@echo 'make clean            remove what was built; distclean: .venv too'

install: $(VENV)/.installed

$(VENV)/.deps: requirements.lock
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'error: $(PYTHON) not found. On Debian: apt-get install python3 python3-venv python3-dev' >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	    'Name another with: make install PYTHON=python3.11' >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'error: $(PYTHON) cannot create virtual environments.' \
	    'On Debian: apt-get install python3-venv' >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || { \
	  echo 'error: the C headers of $(PYTHON) (Python.h) are missing.' \
	    'On Debian: apt-get install python3-dev' >&2; \
	  exit 1; }
	@command -v gcc >/dev/null && echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || { \
	  echo 'error: a C compiler with the C library headers is needed.' \
	    'On Debian: apt-get install gcc libc6-dev' >&2; \
	  exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.deps pyproject.toml setup.py $(EXT_SOURCES)
	env -u CEXT_ONLY -u CEXT_SANITIZE PYTHONWARNINGS=ignore $(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# CEXT_ONLY and CEXT_DEBUG reach setup.py through the environment.
native: $(VENV)/.deps
	$(PY) setup.py --quiet build_ext --inplace

run: install
	$(PY) -m gateway.demo $(ARGS)

test: install
	$(PY) -m pytest $(ARGS)

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict gateway storage

format: $(VENV)/.deps
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# __pyx_capi__ is how Cython modules hand C functions to each other: no stub can describe it.
# Extension types are laid out in C, so all of them are "disjoint bases": not worth a decorator.
stubtest: install
	@mkdir -p build
	@echo 'cext\..*\.__pyx_capi__' > build/stubtest.allow
	$(if $(EXT_MODULES),$(PY) -m mypy.stubtest --concise --ignore-disjoint-bases \
	  --allowlist build/stubtest.allow --ignore-unused-allowlist $(EXT_MODULES),@echo 'no extensions yet')

# The whole tree is copied (times kept, so unchanged modules are not compiled again): run there,
# the copy's cext comes first on the path and the normal extensions stay as they are. pytest must
# not capture file descriptors, or the report of a finding would be lost with the process.
asan: install
	@test -f "$$(gcc -print-file-name=libasan.so)" || { \
	  echo 'error: the AddressSanitizer library is missing. On Debian: apt-get install libasan8' >&2; \
	  exit 1; }
	@mkdir -p $(ASAN_DIR)
	@find $(ASAN_DIR) -path $(ASAN_DIR)/build -prune -o -type f ! -name '*.so' -exec rm -f {} +
	@tar -cf - --exclude='./.?*' --exclude=./build --exclude=./var --exclude=./dist \
	  --exclude='*.egg-info' --exclude='*.so' --exclude=__pycache__ --exclude=node_modules . \
	  | tar -xpf - -C $(ASAN_DIR)
	@for so in $(ASAN_DIR)/cext/*.so; do \
	  name=$${so##*/}; test -f "cext/$${name%%.*}.pyx" || rm -f "$$so"; done
	cd $(ASAN_DIR) && env -u CEXT_ONLY CEXT_SANITIZE=address $(CURDIR)/$(PY) setup.py --quiet build_ext --inplace
	@cd $(ASAN_DIR) && $(ASAN_ENV) $(CURDIR)/$(PY) -c 'import cext, os, sys; sys.exit(os.path.dirname(cext.__file__) != os.path.join(os.getcwd(), "cext"))'
	cd $(ASAN_DIR) && $(ASAN_ENV) $(CURDIR)/$(PY) -m pytest --capture=sys tests/cext $(ARGS)

bench: install
	$(PY) -m bench $(ARGS)

lock: $(VENV)/.deps
	CUSTOM_COMPILE_COMMAND='make lock' $(PY) -m piptools compile --quiet --generate-hashes \
	  --extra dev --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --output-file requirements.lock pyproject.toml

clean:
	rm -rf build dist *.egg-info cext/*.so cext/*.c .mypy_cache .ruff_cache .pytest_cache .benchmarks
	rm -f $(VENV)/.installed
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
