# make demo          from nothing to a trained model and its report
# make test          every test that needs no accelerator, except those of test-nightly
# make test-nightly  the tests that are slow and rarely fail
# make lint          style and types
PYTHON ?= python3
BIN := .venv/bin

# Without an NVIDIA driver, torch's CPU build saves gigabytes of CUDA packages.
ifeq ($(shell uname -s)$(shell command -v nvidia-smi),Linux)
TORCH_INDEX := --index-url https://download.pytorch.org/whl/cpu
endif
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-nightly lint clean

demo: .venv/installed
	$(BIN)/bridgetower prep shapes out=data
	$(BIN)/bridgetower train experiment=demo
	$(BIN)/bridgetower eval run_dir=runs/demo
	$(BIN)/bridgetower report run_dir=runs/demo

test: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not nightly"

test-nightly: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m nightly

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv runs data

.venv/installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) --retries 0 --no-deps $(TORCH_INDEX) torch ||,) $(PIP) torch
	$(PIP) --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(PIP) --editable '.[test,lint]'
	touch $@
