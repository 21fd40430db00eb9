# `make demo` and `make test` each work as the only command on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
VENV_IO ?= .venv-io
BIN := $(VENV)/bin
WORKERS ?= 3
PYTEST := -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --max-worker-restart=0 --durations=40
COVERAGE ?=
WITH_COVERAGE := $(if $(COVERAGE),--cov --cov-report=term:skip-covered --cov-fail-under=90)

.PHONY: help demo test test-fast test-io lint format compare sparsity expedia clean

help:
	@echo "make demo       simulated logs -> records -> training -> calibration -> evaluation -> SavedModel"
	@echo "make test       all tests; COVERAGE=1 measures line coverage too, in a fourth more time"
	@echo "make test-fast  tests that neither train nor start processes"
	@echo "make test-io    all tests but those of pipelines, whole comparisons and deployment on TensorFlow 2.17 with tensorflow-io"
	@echo "make lint       ruff, mypy, the contract between layers"
	@echo "make format     ruff format and its safe fixes"
	@echo "make compare    the paper's seven systems on simulated logs, 5 seeds: many hours; it can be resumed"
	@echo "make sparsity   three methods on logs with fewer and fewer conversions: an hour or two"
	@echo "make expedia EXPEDIA_CSV=train.csv   the table of the README, 5 seeds"
	@echo "make clean      removes environments and the demo"

# An environment is made again only when its requirements change.
$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV_IO)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV_IO)
	$(VENV_IO)/bin/python -m pip install --quiet --editable '.[dev,io]'
	touch $@

demo: $(VENV)/.installed
	rm -rf demo
	$(BIN)/python -m esmm_pipelines.synthetic --flagfile=flagfiles/demo_logs.flagfile
	$(BIN)/python -m esmm_tf.train --flagfile=flagfiles/demo.flagfile
	$(BIN)/python -m esmm_tf.calibrate --model_dir=demo/model --files=demo/logs
	$(BIN)/python -m esmm_tf.predict --model_dir=demo/model --files=demo/logs --output=demo/predictions.csv
	$(BIN)/python -m esmm_tf.evaluate --model_dir=demo/model --files=demo/logs --slices=301 --report_dir=demo/report
	$(BIN)/python -m esmm_tf.export --model_dir=demo/model --export_dir=demo/export
	@echo
	@echo "Report:   demo/report/index.html"
	@echo "Curves:   $(BIN)/tensorboard --logdir=demo/model/tensorboard"
	@echo "Serving:  $(BIN)/python -m esmm_tf.serve --export_dir=demo/export"

test: $(VENV)/.installed
	$(BIN)/python $(PYTEST) $(WITH_COVERAGE)

test-fast: $(VENV)/.installed
	$(BIN)/python $(PYTEST) -m 'not slow and not spark'

test-io: $(VENV_IO)/.installed
	$(VENV_IO)/bin/python $(PYTEST) --ignore=tests/pipelines --ignore=tests/test_compare.py --ignore=tests/test_deploy.py

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

compare: $(VENV)/.installed
	[ -f comparison/logs/manifest.json ] || \
	  $(BIN)/python -m esmm_pipelines.synthetic --flagfile=flagfiles/compare_logs.flagfile
	$(BIN)/python -m esmm_tf.compare --flagfile=flagfiles/compare.flagfile

# Of the clicks, 0.5 % convert in Ali-CCP.
sparsity: $(VENV)/.installed
	for rate in 0.11 0.03 0.005; do \
	  directory=comparison/sparsity/$$rate; \
	  [ -f $$directory/logs/manifest.json ] || \
	    $(BIN)/python -m esmm_pipelines.synthetic --flagfile=flagfiles/compare_logs.flagfile \
	      --num_impressions=1000000 --conversion_rate=$$rate --output_dir=$$directory/logs || exit 1; \
	  $(BIN)/python -m esmm_tf.compare --flagfile=flagfiles/sparsity_compare.flagfile \
	    --data_dir=$$directory/logs --output_dir=$$directory/results || exit 1; \
	done

expedia: $(VENV)/.installed
	$(BIN)/python -m benchmarks.expedia --input='$(EXPEDIA_CSV)'

clean:
	rm -rf $(VENV) $(VENV_IO) demo build *.egg-info
