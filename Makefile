# make demo | test | lab | book | test-browser. Each sets up what it needs first; a second call does not install again.
#   VENV=PATH      another virtual environment        PYTHON=python3.12   another interpreter to make it with
#   DATA=PATH      pictures for the demo              ARGS="..."          more options for `marlearn demo`
VENV ?= .venv
PYTHON ?= python3
DATA ?=
ARGS ?=
BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.marlearn-installed
WITH_BOOK := $(VENV)/.marlearn-book

.PHONY: demo test lab book test-browser setup help
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

test: $(INSTALLED)
	@$(BIN)/python scripts/run_tests.py

lab: $(INSTALLED)
	@echo "== opening the index of the lessons"
	@cd nbs && PATH="$(BIN):$$PATH" $(BIN)/jupyter lab index.ipynb $(ARGS)

$(WITH_BOOK): $(INSTALLED)
	@echo "== installing what builds the book and drives a browser (half a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,book,browser]'
	@touch $@

book: $(WITH_BOOK)
	@echo "== building the book from the stored lessons (about a minute)"
	@$(BIN)/python scripts/build_book.py

# Chromium comes from the system: from Debian's packages where apt-get may install, else by hand.
test-browser: $(WITH_BOOK)
	@command -v chromium chromium-browser google-chrome >/dev/null || { echo "== installing Chromium"; apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
		{ echo "no Chromium here, and apt-get cannot install it: install Chromium or Chrome, then run this again"; exit 1; }
	@echo "== lessons in JupyterLab, the book, and every lesson in a real kernel (about 10 minutes)"
	@PATH="$(BIN):$$PATH" MARLEARN_KERNEL=1 $(BIN)/python -m pytest tests/browser
