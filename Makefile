# make demo          from nothing to a trained model and its report
# make test          every test that needs no accelerator, except those of test-nightly
# make test-nightly  the tests that are slow and rarely fail, and those of make test with the lowest allowed versions
# make torture       kills, signals and starves runs, and compares what they give: KILLS=300
# make lint          style and types
PYTHON ?= python3
KILLS ?= 300
BIN := .venv/bin

# Without an NVIDIA driver, torch's CPU build saves gigabytes of CUDA packages.
ifeq ($(shell uname -s)$(shell command -v nvidia-smi),Linux)
TORCH_INDEX := --index-url https://download.pytorch.org/whl/cpu
endif
PIP := python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := python -m pytest -n 2 --dist worksteal -m

# The environment $(1) with torch.
define with-torch
test -d $(1) || $(PYTHON) -m venv $(1)
$(if $(TORCH_INDEX),$(1)/bin/$(PIP) --retries 0 --no-deps $(TORCH_INDEX) torch ||,) $(1)/bin/$(PIP) torch
endef

.PHONY: demo test test-nightly test-lowest torture lint clean

demo: .venv/installed
	$(BIN)/bridgetower prep shapes out=data
	$(BIN)/bridgetower train experiment=demo
	$(BIN)/bridgetower eval run_dir=runs/demo
	$(BIN)/bridgetower report run_dir=runs/demo

test: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) "not nightly"

test-nightly: .venv/installed-test test-lowest
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) nightly

# The lowest numpy has no wheel for Python 3.12.
ifeq ($(shell $(PYTHON) -c 'import sys; print(sys.version_info < (3, 12))'),True)
test-lowest: .venv-lowest/installed-test
	OMP_NUM_THREADS=1 .venv-lowest/bin/$(PYTEST) "not nightly"
else
test-lowest:
	@echo "the lowest versions are tested with Python 3.10 or 3.11: make test-lowest PYTHON=python3.11"
endif

torture: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture --kills $(KILLS)

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-lowest runs data

.venv/installed: pyproject.toml constraints.txt
	$(call with-torch,.venv)
	$(BIN)/$(PIP) --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/$(PIP) --editable '.[test,lint]'
	touch $@

# torch is the tested one: its lowest version is a pre-release that only Gaudi's images carry.
.venv-lowest/installed-test: pyproject.toml constraints.txt
	$(call with-torch,.venv-lowest)
	.venv-lowest/bin/$(PIP) uv
	grep '^torch==' constraints.txt > .venv-lowest/torch.txt
	VIRTUAL_ENV=.venv-lowest .venv-lowest/bin/uv pip install --quiet --resolution lowest-direct --constraint .venv-lowest/torch.txt \
	  --editable '.[test]'
	touch $@
