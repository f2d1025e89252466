# make quickstart   install, generate data, train and evaluate: minutes on 2 CPU cores, most of them for downloads;
#                   run again to resume a stopped run or to evaluate a finished one
# make test         install if needed, and run the tests
# make test-slow    run all tests, including the slow ones
# make test-main    run the tests with a checkout of Detectron2's main: DETECTRON2_MAIN=/path/to/it
# make test-matrix  run the tests with the oldest and newest supported versions of Python, torch,
#                   NumPy and Detectron2 (main: DETECTRON2_MAIN=/path/to/it); ROWS="NAME ..." selects
# make lint         run ruff and mypy, as CI does
# make format       fix and format the code with ruff

PYTHON ?= python3
VENV ?= .venv
# Installed if there is no torch yet. Any torch >= 2.10 with its torchvision should work.
TORCH ?= torch==2.14.1 torchvision==0.29.1
CONFIG ?= configs/shapes/retinanet_atss_rs.py
# The output folder of the shapes configs.
OUTPUT = $(patsubst %.yaml,%_yaml,$(patsubst %.py,%,$(CONFIG:configs/%=output/%)))

PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check
INSTALLED = $(VENV)/.ranking_det-installed
MAIN_VENV = .venv-main
# Two processes with one thread each. Each test file runs in one process; conftest.py orders them.
PYTEST = -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10 --durations-min 20

.PHONY: install quickstart test test-slow test-main test-matrix lint format

install: $(INSTALLED)

$(INSTALLED): setup.py tools/install_detectron2.py
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -c "import torch, torchvision" 2>/dev/null || $(PIP) install $(TORCH)
	$(PY) tools/install_detectron2.py
	$(PIP) install -e ".[detectors,dev]"
	touch $@

quickstart: $(INSTALLED)
	$(PY) -m ranking_det.data.shapes
	$(PY) train_net.py --config-file $(CONFIG) \
	  $$(if test -e $(OUTPUT)/last_checkpoint; then echo --resume; \
	  elif test -n "$$(ls -d $(OUTPUT)/metrics.json $(OUTPUT)/earlier_run* 2>/dev/null)"; \
	  then echo --overwrite; fi)

test test-slow test-main: export OMP_NUM_THREADS = 1

test: $(INSTALLED)
	$(PY) $(PYTEST) -m "not slow"

test-slow: $(INSTALLED)
	$(PY) $(PYTEST)

# Detectron2's main needs pkg_resources, which setuptools 82 removed.
test-main: $(INSTALLED)
	@test -d "$(DETECTRON2_MAIN)/detectron2" || \
	  { echo "DETECTRON2_MAIN: expected a checkout of Detectron2's main, got '$(DETECTRON2_MAIN)'"; exit 2; }
	test -x $(MAIN_VENV)/bin/python || $(PYTHON) -m venv $(MAIN_VENV)
	$(MAIN_VENV)/bin/python -c "import torch, torchvision" 2>/dev/null || \
	  $(MAIN_VENV)/bin/python -m pip install $(TORCH)
	$(MAIN_VENV)/bin/python -m pip install "setuptools<81" -e ".[detectors,dev]" \
	  $$($(PYTHON) tools/install_detectron2.py --requirements)
	test -e "$(DETECTRON2_MAIN)/detectron2/model_zoo/configs" || \
	  ln -s ../../configs "$(DETECTRON2_MAIN)/detectron2/model_zoo/configs"
	PYTHONPATH="$(DETECTRON2_MAIN)" $(MAIN_VENV)/bin/python $(PYTEST) -m "not slow"

# The environments in .venv-matrix take about 6 GB each.
test-matrix:
	DETECTRON2_MAIN="$(DETECTRON2_MAIN)" $(PYTHON) -m benchmarks.version_matrix \
	  $(if $(ROWS),--rows $(ROWS))

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(INSTALLED)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
