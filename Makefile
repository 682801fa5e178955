# Everything here sets itself up: Python 3.11 with pip is all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: setup demo test test-learning figures lint types lock clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# Compiling every module of every package takes as long as downloading and unpacking them.
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check \
		-c constraints.txt -e '.[dev]'
	touch $@

demo: setup  ## Train experts, record them, train DM² on them beside IPPO, draw the comparison.
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh $(DEMO)

test: lint types  ## Lint, types, tests, the README's commands; two processes, a file at a time.
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-learning: setup  ## The slow tests: that agents learn, DM² faster than IPPO; what takes long.
	$(BIN)/python -m pytest -m learning -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/basedpyright

figures: setup  ## Draw the figures of the docs from the committed metrics.
	bash -c 'PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/figures.sh'

lock:  ## Pin what is installed now.
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf $(VENV) $(DEMO)
