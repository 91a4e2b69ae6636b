# make demo and make test do all set-up themselves; both make or reuse .venv.
PYTHON ?= python3
BIN := .venv/bin
# PyTorch's default Linux wheel brings gigabytes of CUDA. Without an NVIDIA GPU the CPU wheel is wanted: among equal
# versions pip prefers it (2.13.0+cpu sorts above 2.13.0). Where this index does not answer, pip goes on without it;
# set TORCH_INDEX_URL to a mirror of it.
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu

.PHONY: venv demo test lint clean

venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; set PYTHON")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	nvidia-smi >/dev/null 2>&1 || $(BIN)/python -m pip install --retries 2 --no-deps \
		--extra-index-url $(TORCH_INDEX_URL) -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[test,dev]'
	@touch $@

demo: venv
	$(BIN)/vessel-uda demo

test: venv
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .coverage* build dist *.egg-info runs
