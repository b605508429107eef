# Everything sets itself up in .venv; only Python >= 3.11 and pip are needed.
# A smaller torch where there is no GPU: make test PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
TESTFLAGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# In processes of their own: one that had run OpenVINO and ONNX Runtime has crashed in a training that came later.
ENGINES := tests/engine tests/exports tests/api/test_bench.py tests/api/test_classify.py tests/api/test_export.py \
	tests/api/test_exported.py tests/cli/test_bad_input.py tests/evaluation/test_bench.py tests/image/test_quick_fit.py \
	tests/peers/test_bench.py

.PHONY: test check demo clean

test: $(READY)  ## run the tests, a process per core with one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(TESTFLAGS) $(ENGINES:%=--ignore=%)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(TESTFLAGS) $(ENGINES)

check: $(READY)  ## style, types, structure
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(READY)  ## train on real handwritten digits and explain the result
	$(BIN)/vitkit demo

clean:  ## forget the environment
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,peers]'
	touch $(READY)
