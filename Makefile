# `make demo` and `make test` set up their own environment in .venv; nothing else has to be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test test-consumers test-faults bench example-influence monitoring screenshots lint format lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "evalgen needs Python 3.11 or newer; make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## train the four demo runs, then sample, grade and write their datasets
	$(BIN)/python -m evalgen.demo --output_dir outputs
	$(BIN)/python ray_jobs/generate_eval_datasets.py --config configs/demo.yaml

test: $(INSTALLED)  ## the tests, on two cores, offline: 15 to 20 minutes (not those of consumers, nor the long fault matrix)
	$(BIN)/python -m pytest --numprocesses 2

test-consumers: $(INSTALLED)  ## load a dataset as its users do, in environments of their own: 2 minutes, 5 more the first time
	$(BIN)/python -m pytest tests/consumers

test-faults: $(INSTALLED)  ## strike jobs with every fault there is, and print what was lost: about 40 minutes
	$(BIN)/python -m tests.faults.matrix $(FAULTS)

example-influence: $(INSTALLED)  ## from a run's sampled dataset to the documents behind it; INFLUENCE="--help" for more
	$(BIN)/python -m tests.consumers.example_influence $(INFLUENCE)

monitoring:  ## Prometheus at localhost:9090, scraping this machine's Ray; README, Operating: Grafana
	@command -v prometheus > /dev/null || { echo "prometheus is missing: apt-get install prometheus"; exit 1; }
	prometheus --config.file=configs/prometheus.yml --storage.tsdb.path=/tmp/evalgen_prometheus --web.listen-address=localhost:9090

screenshots: $(INSTALLED)  ## the README's pictures of the demo, from real runs; after `make demo`, needs tmux and chromium: 5 minutes
	$(BIN)/python -m tests.screenshots

bench: $(INSTALLED)  ## time the samplers against their peers: about 40 minutes; BENCH="--help" for more
	$(BIN)/python -m tests.benchmarks.bench_sampling $(BENCH)

lint: $(INSTALLED)  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## rewrite the code in the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(INSTALLED)  ## write the versions that are installed now into requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:  ## remove the environment and what tools left behind (never outputs/)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
