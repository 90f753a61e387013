# Every target sets up what it needs. `make` alone lists them.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP_ARGS ?=
RUNS ?= runs
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check lint type contract bench docs wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## create .venv with the locked versions (PIP_ARGS="..." chooses another torch build)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(PIP_ARGS) -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(STAMP) ## prune MobileNet-v1 on real digits two ways, convert to four formats, prove it (runs/demo)
	$(BIN)/pdp-export prune-and-convert --recipe sample_models/recipes/digits_unstructured.yaml \
	  --output $(RUNS)/demo/unstructured --force
	$(BIN)/pdp-export prune-and-convert --recipe sample_models/recipes/digits_channel.yaml \
	  --weights $(RUNS)/demo/unstructured/stages/02-train-dense/model.safetensors \
	  --output $(RUNS)/demo/channel --force
	$(BIN)/pdp-export report $(RUNS)/demo/unstructured $(RUNS)/demo/channel

test: $(STAMP) ## run the tests (13 to 14 minutes on 2 cores)
	$(BIN)/pytest -n 2 --dist loadgroup

test-all: $(STAMP) ## run every test, the slow ones too
	$(BIN)/pytest -n 2 --dist loadgroup -m "slow or not slow" --hypothesis-profile=random

check: lint type contract ## lint, types, import contract

lint: $(STAMP) ## ruff: style, docstrings, common mistakes, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP) ## mypy --strict
	$(BIN)/mypy

contract: $(STAMP) ## who may import whom
	$(BIN)/lint-imports

bench: $(STAMP) ## measure the demo: wall time, peak memory, sizes, latencies (benchmarks/results)
	$(BIN)/python benchmarks/demo_figures.py

docs: $(STAMP) ## build the documentation strictly into site/
	$(BIN)/mkdocs build --strict --quiet

wheel: $(STAMP) ## build the wheel from the sdist into dist/ and try it in a clean environment
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python tools/try_wheel.py dist

clean: ## delete everything that can be made again (not runs/)
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
