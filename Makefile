# make demo and make test do all set-up themselves; both make or reuse .venv.
PYTHON ?= python3
BIN := .venv/bin
# MONAI Label's environment. Its client needs the module cgi, which Python 3.13 no longer has.
LABEL_PYTHON ?= $(PYTHON)
LABEL := .venv-label/bin
# PyTorch's default Linux wheel brings gigabytes of CUDA. Without an NVIDIA GPU the CPU wheel is wanted: among equal
# versions pip prefers it (2.13.0+cpu sorts above 2.13.0). Where this index does not answer, pip goes on without it;
# set TORCH_INDEX_URL to a mirror of it.
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu

.PHONY: venv demo test lint label deploy clean

venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; set PYTHON")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	nvidia-smi >/dev/null 2>&1 || $(BIN)/python -m pip install --retries 2 --no-deps \
		--extra-index-url $(TORCH_INDEX_URL) -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[test,dev,generative,onnx,benchmark]'
	@touch $@

label: .venv-label/.installed

# torchvision, which monailabel imports, must be built as torch is. On PyPI it is built for CUDA and does not import
# beside a torch without it; 0.16.2, the last that imports without its compiled part, serves what is needed here.
.venv-label/.installed: requirements-label.txt
	@$(LABEL_PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and \
		"MONAI Label needs Python 3.11 or 3.12; set LABEL_PYTHON")'
	test -x $(LABEL)/python || $(LABEL_PYTHON) -m venv .venv-label
	if nvidia-smi >/dev/null 2>&1; then $(LABEL)/python -m pip install -c requirements-label.txt torch; \
	else $(LABEL)/python -m pip install --retries 2 --no-deps --extra-index-url $(TORCH_INDEX_URL) \
		-c requirements-label.txt torch torchvision; fi
	$(LABEL)/python -m pip install --no-deps -r requirements-label.txt
	$(LABEL)/python -c 'import torchvision' 2>/dev/null || $(LABEL)/python -m pip install --no-deps torchvision==0.16.2
	$(LABEL)/python -W ignore -c 'import monailabel.app, monailabel.tasks.infer.bundle, monailabel.tasks.train.bundle'
	@touch $@

demo: venv
	$(BIN)/vessel-uda demo

test: venv
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# MONAI Deploy's app SDK in an environment of its own (Linux with glibc 2.35 or later; works without a GPU).
deploy: .venv-deploy/.installed

.venv-deploy/.installed: constraints-deploy.txt docs/examples/deploy/requirements.txt
	test -x .venv-deploy/bin/python || $(PYTHON) -m venv .venv-deploy
	nvidia-smi >/dev/null 2>&1 || .venv-deploy/bin/python -m pip install --retries 2 --no-deps \
		--extra-index-url $(TORCH_INDEX_URL) -c constraints-deploy.txt torch
	.venv-deploy/bin/python -m pip install -c constraints-deploy.txt -r docs/examples/deploy/requirements.txt
	@# Holoscan loads the CUDA runtime even without a GPU, and looks for it beside its own libraries.
	ln -sf ../../nvidia/cu13/lib/libcudart.so.13 .venv-deploy/lib/python3*/site-packages/holoscan/lib/
	@touch $@

clean:
	rm -rf .venv .venv-deploy .venv-label .pytest_cache .ruff_cache .mypy_cache .coverage* build dist *.egg-info runs/demo
