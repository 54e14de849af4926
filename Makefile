# `make help` lists the targets. Each target does all of its own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?=
PIP_FLAGS ?=
PARAMS ?=
BIN := $(VENV)/bin
KEY := $(shell cat pyproject.toml constraints.txt 2>/dev/null | sha256sum | cut -c1-16)
READY := $(VENV)/.ready-$(KEY)

SETS ?=
BENCH_FLAGS ?=

.PHONY: help book test test-long test-gpu drill browser lab bench simulate lint format install clean-pages clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

book: $(READY)  ## build the book on the published records; PARAMS=FILE: on a campaign of your own, completed first
	@$(BIN)/intrinsic book $(if $(PARAMS),--params $(PARAMS))

test: $(READY) browser  ## run all tests (about 4 minutes on 2 cores)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_FLAGS)

test-long: $(READY)  ## run the tests that make test leaves out: JupyterLab in a browser, commands on several machines
	@$(BIN)/python -m pytest -m long -n 2 $(PYTEST_FLAGS)

test-gpu: $(READY)  ## run the tests that need a CUDA device, or say that there is none
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make: torch finds no CUDA device on this machine, so none of the GPU tests can run")'
	@$(BIN)/python -m pytest -m gpu $(PYTEST_FLAGS)

drill: $(READY)  ## a campaign and pages whose processes are killed 60 times, compared with an undisturbed one (about 10 minutes)
	@$(BIN)/python tests/drill.py $(DRILL_FLAGS)

browser: $(READY)  ## find Chromium for the browser tests, or install it
	@$(BIN)/python tests/browser.py --install

lab: $(READY)  ## open the book's notebooks in JupyterLab
	@$(BIN)/jupyter lab --notebook-dir=. book/intro.ipynb

bench: $(READY)  ## measure speed on this machine, as ratios within a run; results go to benchmarks/results/
	@for script in neighbors training attacks campaigns startup memory; do $(BIN)/python benchmarks/$$script.py $(BENCH_FLAGS); done

simulate: $(READY)  ## coverage and bias of the estimators, the tables of the book; SETS=FOLDER adds its image sets
	@$(BIN)/python benchmarks/dimension_simulations.py
	@$(BIN)/python benchmarks/sharpness_simulations.py
	@if [ -n "$(SETS)" ]; then for script in sharpness_growth sharpness_image_sets; do \
	  $(BIN)/python benchmarks/$$script.py "$(SETS)"; done; fi

lint: $(READY)  ## check formatting, style, the rooms and that notebooks carry no outputs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@find book -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' -print0 | xargs -0 $(BIN)/nbstripout --verify
	@$(BIN)/python -m pytest -q tests/test_layout.py
	@$(BIN)/python tests/prose.py

format: $(READY)  ## format the code and strip the notebooks
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@find book -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' -print0 | xargs -0 $(BIN)/nbstripout

install: $(READY)  ## make the virtual environment and nothing else

clean-pages:  ## remove pages and decoded images, so all pictures; records and the virtual environment stay
	cd _build 2>/dev/null && rm -rf cache compare doctrees executed html ipython jupyter_execute rendered reports source *.log || true

clean:  ## remove the build, records included, and the virtual environment
	rm -rf _build .venv .pytest_cache .ruff_cache

# The virtual environment, made again when pyproject.toml or constraints.txt change.
# torchattacks goes in by itself: it pins an old `requests` that it never imports.
$(READY): pyproject.toml constraints.txt
	@python=""; for name in "$(PYTHON)" python3 python3.13 python3.12 python3.11; do \
	  if [ -n "$$name" ] && "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	  then python="$$name"; break; fi; done; \
	if [ -z "$$python" ]; then echo "make: Python 3.11, 3.12 or 3.13 was not found; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
	if ! "$$python" -c 'import ensurepip' 2>/dev/null; then \
	  package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  $$sudo apt-get install -y -qq "$$package" || { echo "make: $$python has no venv module; install it: sudo apt install $$package" >&2; exit 1; }; fi; \
	echo "installing into $(VENV) with $$($$python --version) ..."; \
	"$$python" -m venv $(VENV); \
	$(BIN)/pip install -q $(PIP_FLAGS) -c constraints.txt -e '.[book,lab,test,bench]'; \
	$(BIN)/pip install -q --no-deps -c constraints.txt torchattacks; \
	rm -f $(VENV)/.ready-*; touch $@
