# The two commands: `make demo` and `make test`. Each creates the environment first if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# created again when one of its sources changes
STAMP := $(VENV)/.made
# the same with OpenMMLab's own last releases instead of the maintained forks
VENV_OPENMMLAB := .venv-openmmlab
STAMP_OPENMMLAB := $(VENV_OPENMMLAB)/.made
SOURCES := setup.cfg pyproject.toml requirements/constraints.txt
# three workers with one thread each keep two cores busy: many tests wait for processes of their own
WORKERS := --numprocesses 3 --dist worksteal
# of gpu-check: cuda, or cpu for a rehearsal
DEVICE ?= cuda

.PHONY: help demo test test-fast test-cluster test-openmmlab gpu-check coverage docs lint format package clean

help:
	@echo 'make demo            distil on digits, a folder of images, with one command: tools/distill.py'
	@echo 'make test            run all tests'
	@echo 'make test-fast       run the tests that take no training and no other process'
	@echo 'make test-cluster    run the tests on a real Slurm and several machines, which are namespaces of this one; needs root'
	@echo "make test-openmmlab  run the tests that depend on the stack with OpenMMLab's own last releases"
	@echo 'make gpu-check       try what needs a GPU, and write a report; DEVICE=cpu rehearses it'
	@echo 'make coverage        run all tests and list the lines they miss'
	@echo 'make docs            write the generated files and build docs/_build/html/index.html'
	@echo 'make lint            check style, spelling, layers, types and generated files'
	@echo 'make format          fix the style where ruff can'
	@echo 'make package         build and check the source distribution and the wheel: dist/'
	@echo 'make clean           remove the environments and what the other commands made'

$(STAMP): $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar off -c requirements/constraints.txt \
		-e '.[onedl,demo,test,docs,lint,package]'
	@touch $@

# shared packages are linked rather than installed again: 20 seconds instead of two minutes, and no 6 GB. Their scripts
# are missing, so use python -m
$(STAMP_OPENMMLAB): $(STAMP)
	$(BIN)/python -m venv --clear --without-pip $(VENV_OPENMMLAB)
	cp -al $(VENV)/lib/python3.*/site-packages $(VENV_OPENMMLAB)/lib/python3.*/
	$(VENV_OPENMMLAB)/bin/python -m pip uninstall --quiet --yes onedl-mmengine onedl-mmcv onedl-mmpretrain icd-mmrazor
	$(VENV_OPENMMLAB)/bin/python -m pip install --quiet --progress-bar off -c requirements/constraints.txt \
		-e '.[openmmlab,demo,test]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python tools/demo.py

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(WORKERS) -m 'not cluster'

test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(WORKERS) -m 'not slow and not cluster'

test-cluster: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/cluster -m cluster -rs --numprocesses 2 --dist loadfile

test-openmmlab: $(STAMP_OPENMMLAB)
	OMP_NUM_THREADS=1 $(VENV_OPENMMLAB)/bin/python -m pytest $(WORKERS) -m stack

gpu-check: $(STAMP)
	$(BIN)/python tools/gpu_check.py --device $(DEVICE)

coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(WORKERS) -m 'not cluster' --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

# every page is read from the top: links between docs/, README.md and configs/ are the same on a code host
docs: $(STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/sphinx-build -W --keep-going --quiet -b html -c docs . docs/_build/html
	@echo 'docs/_build/html/index.html'

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(BIN)/python tools/benchmarks/table.py docs/results.json --pages docs/results.md README.md --figures docs/images --check

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

package: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) $(VENV_OPENMMLAB) work_dirs/demo work_dirs/gpu_check docs/_build docs/api dist build
