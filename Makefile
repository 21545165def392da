PYTHON ?= python3
BIN := .venv/bin

help:
	@echo 'make study   set up, then run the whole study in small on the embedded tiles (results/smoke)'
	@echo 'make check   set up, then check style and the quick tests (two minutes)'
	@echo 'make test    set up, then check style, all tests but the soak, and notebooks (ten minutes)'
	@echo 'make soak    set up, then kill sweeps again and again'
	@echo 'make setup   only create .venv'
	@echo 'make lab     open the notebooks in JupyterLab'
	@echo 'make docs    build the documentation, with the results of lite (build/docs/lite)'
	@echo 'make accept  take the notebooks and records of the last `make study` as the stored ones'

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else "Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

lock:
	uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --generate-hashes --upgrade --quiet -o requirements.lock

study: setup
	@test '$(origin PRESET)' = file || { echo 'make study runs smoke: for $(PRESET), dli study --preset $(PRESET)'; exit 1; }
	$(BIN)/dli study --preset smoke
	$(BIN)/python docs/build.py --preset smoke

PRESET := lite

docs: setup
	$(BIN)/python docs/build.py --preset $(PRESET)

lab: setup
	$(BIN)/jupyter lab notebooks

# One process for each core, and one thread for each process (tests/conftest.py): more threads than
# cores take far longer.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: style
	$(PYTEST) --dist worksteal --hypothesis-profile fast -m 'not slow and not soak'

# The notebooks' stored outputs are compared with the records they were made from, not with what this machine trains.
test: style
	$(PYTEST) --dist worksteal
	rm -rf build/nbval
	mkdir -p build/nbval/results build/nbval/notebooks
	cp notebooks/[0-9]*.ipynb build/nbval/notebooks/
	cp -r tests/smoke build/nbval/results/
	cp tests/nbval_conftest.py build/nbval/conftest.py
	OMP_NUM_THREADS=1 $(PYTEST) --dist loadscope --nbval-lax build/nbval/notebooks

soak: setup
	$(BIN)/python -m pytest -m soak

accept:
	@! ls results/smoke/notebooks/*.failed.ipynb 2>/dev/null
	cp results/smoke/notebooks/*.ipynb notebooks/
	rm -rf tests/smoke
	mkdir -p tests/smoke
	cp -r results/smoke/records tests/smoke/

.PHONY: help setup lock study docs lab style check test soak accept
