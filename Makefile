# The commands of the project. `make help` lists them; ARGS="..." is passed on to the program.

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# A file's tests stay with one worker, which makes what they share once; conftest.py puts the longest files first.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

# The first Python from 3.11 to 3.13 that can make a virtual environment. Another: make PYTHON=/path/to/python3 ...
CANDIDATES := python3 python3.13 python3.12 python3.11 python
SUITABLE := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(firstword $(foreach name,$(CANDIDATES),$(shell $(name) -c "$(SUITABLE)" 2>/dev/null && echo $(name))))

# The interpreters that compile for GPUs and TPUs; where they are not given, they are made.
export PREFLIGHT_CUDA PREFLIGHT_TPU
ENVIRONMENTS := $(if $(PREFLIGHT_CUDA),,.venv-preflight-cuda/.installed) $(if $(PREFLIGHT_TPU),,.venv-preflight-tpu/.installed)

.DEFAULT_GOAL := help
.PHONY: help demo quick-test train tensorboard benchmark verify-resume test test-long test-all cluster-test docs-test test-accelerators lint format cuda12 cuda13 tpu preflight-cuda preflight-tpu clean

help: ## this list
	@echo 'make TARGET [ARGS="key=value ..."] [PYTHON=python3.12]'
	@echo
	@awk -F ':[^#]*## ' '/^[a-z0-9 -]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## the bundled model learns arithmetic, in minutes on a laptop
	$(BIN)/python run_training.py +experiment=demo $(ARGS)

quick-test: $(VENV)/.installed ## ten steps of the bundled model: does everything work here?
	$(BIN)/python run_training.py +experiment=quick_test $(ARGS)

train: $(VENV)/.installed ## a training run, for example ARGS="model=gemma3_1b device=cuda"
	$(BIN)/python run_training.py $(ARGS)

tensorboard: $(VENV)/.installed ## all runs at http://localhost:6006
	$(BIN)/tensorboard --logdir outputs --port 6006 $(ARGS)

benchmark: $(VENV)/.installed ## times steps against the machine's limits, for example ARGS="model=tiny device=cpu"
	$(BIN)/python scripts/benchmark.py $(ARGS)

verify-resume: $(VENV)/.installed ## proves that stopping changes nothing, for example ARGS="model=tiny task=arithmetic device=cpu"
	$(BIN)/python scripts/verify_resume.py $(ARGS)

test: $(VENV)/.installed-dev ## the tests, in minutes, for example ARGS="-k config"
	$(BIN)/python -m pytest $(WORKERS) -m "not long and not slow and not docs and not accelerators" $(ARGS)

test-long: $(VENV)/.installed-dev ## the tests that take seconds each, most of them with quicker ones beside them
	$(BIN)/python -m pytest $(WORKERS) -m "long and not slow" $(ARGS)

test-all: $(VENV)/.installed-dev ## the tests, the slow ones too
	$(BIN)/python -m pytest $(WORKERS) -m "not docs and not accelerators" $(ARGS)

cluster-test: $(VENV)/.installed-dev ## two processes on this machine train as one, are killed, and go on
	$(BIN)/python -m pytest tests/test_cluster.py $(ARGS)

docs-test: $(VENV)/.installed-dev ## runs the commands of README.md, CONTRIBUTING.md and docs/ that can run here
	$(BIN)/python -m pytest -n 2 -m docs tests/test_docs.py $(ARGS)

test-accelerators: $(VENV)/.installed-dev $(ENVIRONMENTS) ## compiles ten trainings for GPUs and TPUs without having one, at most 30 minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m accelerators tests/test_accelerators.py $(ARGS)

lint: $(VENV)/.installed-dev ## style, layout and types of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev ## puts the code into its layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cuda12 cuda13 tpu: $(VENV)/.installed ## adds what jax needs for this accelerator
	$(BIN)/pip install -c constraints.txt -e ".[$@]"

preflight-cuda preflight-tpu: %: .venv-%/.installed ## an environment whose bin/python runs scripts/preflight.py for such a device without one

clean: ## removes caches; runs, checkpoints and .venv stay
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache build

.venv-preflight-%/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-preflight-$*
	.venv-preflight-$*/bin/pip install -c constraints.txt -e ".[$(if $(findstring tpu,$*),tpu,cuda12)]"
	@touch $@

$(VENV)/bin/python:
ifeq ($(strip $(PYTHON)),)
	@echo "No Python 3.11, 3.12 or 3.13 with the venv module was found; install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
	@exit 1
else
	$(PYTHON) -m venv $(VENV)
endif

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV); the first time takes a few minutes."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV), with the development tools; the first time takes a few minutes."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(VENV)/.installed $@
