# Everything a newcomer types. The work is in scripts/, so that it can be read, tested and run alone.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test check up down status bench bench-metrics bench-parity bench-smoke bench-serving bench-release lock wheels
PYTHON := .venv/bin/python
export SLIPWAY_HOME ?= $(CURDIR)/.slipway

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## bring what is missing: Debian packages, Docker engine, .venv, base image
	@scripts/setup.sh

demo: setup ## set up, train the examples, package them through Airflow, release one, catch a broken one
	@$(PYTHON) scripts/demo.py

test: ## set up, run the whole suite (PYTEST="-k smoke" to narrow it)
	@scripts/setup.sh --tests
	@scripts/test.sh $(PYTEST)

check: setup ## ruff, mypy and the fast tests: before every commit
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@$(PYTHON) -m pytest tests/unit -q $(PYTEST)

up: setup ## start MLflow and Airflow (ports: SLIPWAY_MLFLOW_PORT, SLIPWAY_AIRFLOW_PORT)
	@$(PYTHON) -m scripts.services up

down: ## stop them, and whatever a killed start left behind
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m scripts.services down; else echo "services: no .venv, so none was started"; fi

status: setup ## which of them run, and where they answer
	@$(PYTHON) -m scripts.services status

bench: setup ## the figures that the README quotes
	@scripts/bench.sh

bench-metrics: setup ## how often the metric gate passes what it should not, and how many rows it takes
	@scripts/bench.sh noninferiority

bench-parity: setup ## the fault corpus through the parity gate, beside the exporters' own checks, and what it costs
	@scripts/bench.sh parity

bench-smoke: setup ## the smoke gate against images with one thing wrong each, and good ones
	@scripts/bench.sh smoke

bench-serving: ## the serving image beside MLServer, BentoML, LitServe and MLflow's server, in the same run
	@scripts/setup.sh --bench
	@scripts/bench.sh serving

bench-release: setup ## what a release is worth: how often it is wrong, how soon it is right, what users pay until then
	@scripts/bench.sh release

lock: setup ## resolve requirements.in into requirements.txt (UPGRADE=1 for the newest versions)
	@scripts/lock.sh

wheels: setup ## everything that pip would download, into .wheels/: carry it to a machine without network
	@scripts/wheels.sh
