# Steel, the book. Needs Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
PY     := .venv/bin/python
PRESET ?= laptop
RUN    ?= runs/$(PRESET)

.PHONY: run test book lab lint sync figures clean help

help:            ## what there is
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: .venv/.core ## train a small Steel through its whole life (8 minutes on two idle cores, longer beside other work), then chat with it
	$(PY) -m steel run --preset $(PRESET) --run $(RUN) --chat

test: .venv/.all ## every test, every chapter
	$(PY) -m pytest -n 2 --dist loadscope tests
	MPLBACKEND=agg OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadscope --nbval -p book.stored_outputs -p no:cacheprovider notebooks

book: .venv/.all ## render the book into _build/html; a warning is an error
	.venv/bin/jupyter-book build . -W --keep-going
	$(PY) book/check_html.py _build/html

lab: .venv/.all  ## open the chapters in JupyterLab
	.venv/bin/jupyter lab notebooks

lint: .venv/.all ## style
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

sync: .venv/.all ## rebuild the notebooks and scripts from book/*.md and execute them (CHAPTER=07_soft_moe for one)
	$(PY) book/sync.py $(CHAPTER)

figures: .venv/.all ## redraw the figures that come from committed run logs
	$(PY) -m figures.make

clean:           ## remove what was built, keep runs/
	rm -rf _build .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Steel needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.core: .venv/bin/python pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/.all: .venv/bin/python pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[book,test,dev]'
	@touch .venv/.core $@
