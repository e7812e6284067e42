# Two commands for everyone: `make demo` (see it work) and `make test` (prove it works). Both set up .venv first.
# PyPI's torch for Linux brings CUDA with it; on a machine without a GPU the download is much smaller with
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
WORK ?= bench-run
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test quick check api bench bench-speed bench-serve
.DEFAULT_GOAL := test

# torch goes first: everything else accepts the build of it that is there.
$(INSTALLED): pyproject.toml constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[offline,openvino,onnx,faiss,serve,ir-datasets,hf,images,dev]'
	touch $@

demo: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/limbeck demo --out demo-run

# One thread in each of the two test processes: more would only make them wait for each other. A file
# stays in one process, so that what its tests share is made once; tests/conftest.py orders the files.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PYTEST)

# Without what is marked slow: whole runs, kills, processes, other runtimes.
quick: $(INSTALLED)
	$(PYTEST) -m "not slow"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

# The reference of every module, from its docstrings: api/index.html
api: $(INSTALLED)
	$(BIN)/pdoc --docformat google --no-show-source -o api limbeck '!limbeck.cli'

# Without DATA, a folder in the BEIR layout, only what needs no data is measured (docs/benchmarks.md).
bench: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/memory.py
ifdef DATA
	$(BIN)/python -m pip install -c constraints.txt -e '.[bench]'
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/second_run.py $(DATA) --work $(WORK)/second-run
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/head_to_head.py $(DATA) --work $(WORK)/head-to-head
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/quality.py $(DATA) --work $(WORK)/quality
endif

bench-speed: $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[bench]'
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/speed.py $(or $(DATA),pydocs)

bench-serve: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/serve_load.py
