# The two first commands after cloning are `make demo` and `make test`; they need nothing but Python 3.11 to 3.13.
PYTHON ?= python3
PIP_INSTALL := pip install --quiet --disable-pip-version-check
PYTEST := pytest -n 2 --dist loadscope --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TORCH_PYTHON ?=
CHECK_PYTHON := $(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python 3.11 to 3.13 is needed, %s is %d.%d: try make PYTHON=python3.12" % (sys.executable, *v))'

.DEFAULT_GOAL := help

.PHONY: help
help:  ## these lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

# A stamp inside the environment: made again when what it was made from changes.
$(VENV)/installed: requirements.txt pyproject.toml
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) -r requirements.txt
	$(BIN)/$(PIP_INSTALL) --no-deps -e .
	@touch $@

.PHONY: install
install: $(VENV)/installed  ## makes .venv with the tested versions of everything

.PHONY: demo
demo: install  ## trains a small TimeSformer on digits in motion, tests it and writes a report (ARGS="--config...." to change it)
	$(BIN)/python main.py --config=configs/moving_digits.py --workdir=runs/demo $(ARGS)
	$(BIN)/python main.py --config=configs/moving_digits.py --workdir=runs/demo $(ARGS) --mode=report

.PHONY: test
test: install  ## the tests, but for the slow ones
	$(BIN)/python -m $(PYTEST) -m "not slow and not parity and not beam and not cluster and not browser" $(ARGS)

.PHONY: test-all
test-all: install  ## all tests, but for those beside PyTorch
	TEST_NEWER_CPU_LOOPS=true $(BIN)/python -m $(PYTEST) -m "not parity and not beam and not browser" $(ARGS)

# Made again for another Python; what is installed is brought up to date every time.
LATEST := .venv-latest
.PHONY: test-latest
test-latest:  ## the same tests with the newest versions of everything, in .venv-latest (PYTHON=python3.13 chooses the Python)
	@$(CHECK_PYTHON)
	@[ "$$($(LATEST)/bin/python -V 2>&1)" = "$$($(PYTHON) -V)" ] || $(PYTHON) -m venv --clear $(LATEST)
	$(PYTHON) .ci/without_upper_bounds.py dev > $(LATEST)/requirements.txt
	$(LATEST)/bin/$(PIP_INSTALL) --upgrade --upgrade-strategy=eager -r $(LATEST)/requirements.txt
	$(LATEST)/bin/$(PIP_INSTALL) --no-deps -e .
	$(LATEST)/bin/pip list --format=freeze | grep -E '^(av|flax|jax|jaxlib|numpy|optax|orbax-checkpoint|tensorflow[a-z_-]*)=='
	$(LATEST)/bin/python -m $(PYTEST) -m "not slow and not parity and not beam and not cluster and not browser" $(ARGS)

.PHONY: resolve
resolve: .venv-resolve/bin/uv  ## looks for the wheels of every extra on Linux (x86-64, aarch64), macOS (arm64) and Windows
	.venv-resolve/bin/python .ci/resolve.py

.venv-resolve/bin/uv:
	$(PYTHON) -m venv .venv-resolve
	.venv-resolve/bin/$(PIP_INSTALL) uv==0.13.9

# Two steps, so that the index of CPU builds is asked for PyTorch and torchvision alone.
$(VENV)/parity-installed: $(VENV)/installed tests/parity/requirements.txt
	$(BIN)/$(PIP_INSTALL) --no-deps --extra-index-url https://download.pytorch.org/whl/cpu \
		$$(grep -E '^torch(vision)?==' tests/parity/requirements.txt)
	$(BIN)/$(PIP_INSTALL) -r tests/parity/requirements.txt
	@touch $@

.PHONY: parity
parity: $(VENV)/parity-installed  ## the tests beside PyTorch, torchvision, timm and transformers, which it installs (CPU builds)
	$(BIN)/python -m pytest -m parity $(ARGS)

# A separate environment: Beam's pins conflict with the others.
.venv-beam/installed: tests/beam/requirements.txt
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/$(PIP_INSTALL) -r tests/beam/requirements.txt
	@touch $@

.PHONY: beam
beam: .venv-beam/installed  ## makes .venv-beam, for `tfds build` and Apache Beam, and tests preparing with it
	.venv-beam/bin/python -m pytest -c /dev/null -W ignore::pytest.PytestUnknownMarkWarning --rootdir=. --noconftest -p no:cacheprovider tests/beam $(ARGS)

# A separate environment: Gradio requires an older Pillow than the others.
APP := .venv-app
$(APP)/installed: requirements.txt pyproject.toml tests/browser/requirements.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(APP)
	grep -v '^pillow==' requirements.txt > $(APP)/constraints.txt
	$(APP)/bin/$(PIP_INSTALL) -c $(APP)/constraints.txt -r tests/browser/requirements.txt -e ".[app]"
	@touch $@

.PHONY: app-env
app-env: $(APP)/installed  ## makes .venv-app, for `timesformer app`

# Failed tests have a second chance: a browser on a busy machine may miss a key.
.PHONY: browser
browser:  ## tests the app and the report's page in Chromium (Debian: apt-get install chromium)
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || \
		{ echo "The browser tests need Chromium: apt-get install chromium" >&2; exit 1; }
	@$(MAKE) --no-print-directory $(APP)/installed
	$(APP)/bin/python -m pytest -m browser tests/browser $(ARGS) || \
		$(APP)/bin/python -m pytest -m browser tests/browser --last-failed $(ARGS)

# A separate environment, since libtpu and the CUDA plugin are large, and no other process should load them.
PLAN := .venv-plan
$(PLAN)/installed: requirements.txt pyproject.toml
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(PLAN)
	$(PLAN)/bin/$(PIP_INSTALL) -c requirements.txt "optax" -e ".[tpu,augment]"
	version=$$($(PLAN)/bin/python -c 'import jaxlib; print(jaxlib.__version__)'); \
		$(PLAN)/bin/$(PIP_INSTALL) --no-deps "jax-cuda12-plugin==$$version" "jax-cuda12-pjrt==$$version" "nvidia-cuda-nvcc-cu12>=12.9,<13"
	@touch $@

.PHONY: plan-env
plan-env: $(PLAN)/installed  ## makes .venv-plan, for --mode=plan: XLA's compilers for TPUs and NVIDIA GPUs (Linux on x86-64)

.PHONY: cluster
cluster: install  ## launch/ on a pretended Slurm (Debian: apt-get install slurm-wlm munge)
	$(BIN)/python -m pytest -m cluster $(ARGS)

$(VENV)/notebooks-installed: $(VENV)/installed examples/requirements.txt
	$(BIN)/$(PIP_INSTALL) -r examples/requirements.txt
	@touch $@

.PHONY: notebooks
notebooks: $(VENV)/notebooks-installed  ## executes the notebooks of examples/ (ARGS=--write keeps the new outputs)
	$(BIN)/python examples/execute.py $(ARGS)

# An environment for building alone; the wheel is installed into a temporary one.
RELEASE := .venv-release
$(RELEASE)/installed: .ci/release_requirements.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/$(PIP_INSTALL) -r .ci/release_requirements.txt
	@touch $@

.PHONY: release-check
release-check: $(RELEASE)/installed  ## builds sdist and wheel, checks them, and predicts with the wheel in an empty environment
	$(RELEASE)/bin/python .ci/release_check.py

.PHONY: bench
bench: install  ## time and memory of the model (TORCH_PYTHON=PYTHON compares with PyTorch)
	$(BIN)/python benchmarks/model.py speed $(if $(TORCH_PYTHON),--torch-python=$(TORCH_PYTHON))
	$(BIN)/python benchmarks/model.py compile
	$(BIN)/python benchmarks/model.py memory
	$(BIN)/python benchmarks/model.py joint
	$(BIN)/python benchmarks/cls_layout.py
	$(BIN)/python benchmarks/weights.py
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/checkpoints.py
	$(BIN)/python benchmarks/evaluation.py

# A separate environment: the TPU's compiler is large, and runs on x86-64 Linux only.
.venv-tpu/installed: benchmarks/budgets/requirements.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/$(PIP_INSTALL) -r benchmarks/budgets/requirements.txt
	@touch $@

.PHONY: tpu-budgets
tpu-budgets: .venv-tpu/installed  ## compiles the model for a TPU v5e: cycles, memory and collectives may not grow (Python 3.11)
	.venv-tpu/bin/python benchmarks/tpu.py $(ARGS)

.PHONY: endurance
endurance: install  ## kills runs and damages their files: nothing may be lost (an hour; ARGS=--short: three minutes)
	$(BIN)/python benchmarks/endurance.py $(ARGS)

.venv-docs/installed: docs/requirements.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/$(PIP_INSTALL) -r docs/requirements.txt
	@touch $@

# Griffe reads the docstrings and only logs what is wrong with them.
.PHONY: docs
docs: .venv-docs/installed  ## builds the documentation with its API reference into site/; any warning is an error
	@log=$$(.venv-docs/bin/zensical build --strict --clean 2>&1); status=$$?; echo "$$log"; \
		[ $$status = 0 ] && ! echo "$$log" | grep -q '^griffe: '

.PHONY: lint
lint: install  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

.PHONY: format
format: install  ## lets ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
