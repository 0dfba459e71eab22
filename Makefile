# make demo | test | lab. Each sets up what it needs first; a second call does not install again.
#   VENV=PATH      another virtual environment        PYTHON=python3.12   another interpreter to make it with
#   DATA=PATH      pictures for the demo              ARGS="..."          more options for `marlearn demo`
VENV ?= .venv
PYTHON ?= python3
DATA ?=
ARGS ?=
BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.marlearn-installed

.PHONY: demo test lab setup help
help:
	@sed -n '1,3p' Makefile

setup: $(INSTALLED)

# Installs again only when the requirements or the package's metadata have changed.
$(INSTALLED): settings.ini setup.py pyproject.toml
	@echo "== setting up $(VENV) (torch with torchvision is a download of some gigabytes: 3 to 10 minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
	@echo "== $(VENV) is ready"

demo: $(INSTALLED)
	@$(BIN)/marlearn demo $(if $(DATA),--data "$(DATA)") $(ARGS)

# One thread a process, two lessons side by side: faster on two cores than the other way round.
test: $(INSTALLED)
	@echo "== running every lesson (about 4 minutes on two cores)"
	@PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 nbdev-test --n-workers 2 --do-print --timing
	@echo "== running the tests (about 4 minutes)"
	@PATH="$(BIN):$$PATH" $(BIN)/python -m pytest

lab: $(INSTALLED)
	@echo "== opening the lessons; start with 00_start.ipynb"
	@cd nbs && PATH="$(BIN):$$PATH" $(BIN)/jupyter lab 00_start.ipynb $(ARGS)
