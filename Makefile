# The two commands: `make demo` and `make test`. Each makes the environment first if it is not there.
PYTHON ?= python3
VENV := .venv
# the environment is made anew when what it is made from changes
STAMP := $(VENV)/.made
# the same with OpenMMLab's own last releases instead of the maintained forks
VENV_OPENMMLAB := .venv-openmmlab
STAMP_OPENMMLAB := $(VENV_OPENMMLAB)/.made
SOURCES := setup.cfg pyproject.toml requirements/constraints.txt
# two workers of one thread each: most tests are small, or start a process of their own
WORKERS := --numprocesses 2 --dist worksteal

# what goes through the packages of a family little or not at all is tested with one of them: formulas, tables, the runner
# of trials, launchers. tools/compatibility.py runs all tests with both
FAMILY_FREE := tests/models/losses tests/models/connectors tests/models/backbones \
	tests/models/algorithms/test_frozen_teacher_losses.py tests/engine/test_check_batches_hook.py tests/engine/test_metrics.py \
	tests/checkpoints tests/configuration tests/export/test_network.py tests/export/test_onnx.py tests/export/test_student.py \
	tests/launch tests/utils tests/test_errors.py tests/compat/test_recording.py \
	$(addprefix tests/datasets/test_,class_names.py loaders.py memory.py randomness.py samples.py views.py) \
	tests/test_recipes.py tests/test_docs.py tests/test_model_zoo.py \
	tests/tools/test_benchmark_front.py tests/tools/test_collect_results.py tests/tools/test_comparison_tools.py \
	tests/tools/test_compatibility.py tests/tools/test_faults.py tests/tools/test_fuzz.py \
	tests/tools/test_plots_of_logs.py tests/tools/test_step_time.py tests/tools/test_trials.py
FAMILY_FREE_TESTS := tests/test_configs.py::test_wheel_carries_the_configs \
	tests/tools/test_training_tools.py::test_demo \
	tests/tools/test_training_tools.py::test_slurm_starts_torchrun_on_every_node

.PHONY: help demo test test-openmmlab coverage docs lint format clean

help:
	@echo 'make demo            distil on digits: teacher, student alone, ICD, ICD+KD; prints one table'
	@echo 'make test            run the tests'
	@echo "make test-openmmlab  run the tests that concern it with OpenMMLab's own last releases"
	@echo 'make coverage        run the tests and list the lines they miss'
	@echo 'make docs            build the documentation: docs/_build/html/index.html'
	@echo 'make lint, format    check, or mend, style with ruff'
	@echo 'make clean           remove the environments and what the demo and the docs made'

$(STAMP): $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --progress-bar off -c requirements/constraints.txt -e '.[onedl,demo,test,docs,lint]'
	@touch $@

# what both have is linked, not installed again: 20 seconds instead of two minutes, and no 6 GB. The scripts of what is
# linked are missing, so use python -m
$(STAMP_OPENMMLAB): $(STAMP)
	$(VENV)/bin/python -m venv --clear --without-pip $(VENV_OPENMMLAB)
	cp -al $(VENV)/lib/python3.*/site-packages $(VENV_OPENMMLAB)/lib/python3.*/
	$(VENV_OPENMMLAB)/bin/python -m pip uninstall --quiet --yes onedl-mmengine onedl-mmcv onedl-mmpretrain icd-mmrazor
	$(VENV_OPENMMLAB)/bin/python -m pip install --quiet --progress-bar off -c requirements/constraints.txt \
		-e '.[openmmlab,demo,test]'
	@touch $@

demo: $(STAMP)
	$(VENV)/bin/python tools/demo.py

test: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest $(WORKERS)

test-openmmlab: $(STAMP_OPENMMLAB)
	OMP_NUM_THREADS=1 $(VENV_OPENMMLAB)/bin/python -m pytest $(WORKERS) $(FAMILY_FREE:%=--ignore=%) \
		$(FAMILY_FREE_TESTS:%=--deselect=%)

# the lines of icd_mmrazor/ that no test runs
coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest $(WORKERS) --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

# every page is read from the top: links between docs/, README.md and configs/ are the same on a code host
docs: $(STAMP)
	$(VENV)/bin/sphinx-build -W --keep-going --quiet -b html -c docs . docs/_build/html
	@echo 'docs/_build/html/index.html'

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(VENV_OPENMMLAB) work_dirs/demo docs/_build
