# Every target sets up what it uses. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest

# Debian and Ubuntu packages: bcc (never from PyPI, where another thing has its name), what the tests call, a C compiler
# that judges struct layouts.
APT := python3-bpfcc python3-venv iproute2 gcc libc6-dev
APT_BENCH := nftables
APT_MATRIX := busybox-static mmdebstrap debian-archive-keyring kmod xz-utils zstd

.PHONY: help setup lock newest oldest demo run check manifests fmt test unit layout kernel attack api e2e soak bench matrix bcc rules helm clean

help: ## what there is to do
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: pyproject.toml requirements/dev.txt
	@./scripts/setup.sh $(VENV) $(APT)
	@touch $@

setup: $(VENV)/.ready ## packages of the distribution and a virtual environment

lock: ## choose versions anew: requirements/*.txt, with hashes
	@./scripts/lock.sh

newest: ## types and unit tests with the newest packages that pyproject.toml admits: what the lock will meet
	@./scripts/versions.sh newest

oldest: ## unit tests with the oldest packages that pyproject.toml admits
	@./scripts/versions.sh oldest

demo: $(VENV)/.ready ## a scratch node with real pods, policies and packets: who talked to whom, and why not
	@$(PY) -m demo

run: $(VENV)/.ready ## the agent on your own manifests: make run FILES=folder
	@[ -n "$(FILES)" ] || { echo "make run: FILES is missing: the folder of your manifests, as in make run FILES=manifests" >&2; exit 2; }
	$(VENV)/bin/dagwall run --files $(FILES)

manifests: $(VENV)/.ready ## deploy/base/crds, daemonset.yaml, dashboards, the chart's files, manual pages: from what makes them
	$(PY) -m scripts.manifests

fmt: $(VENV)/.ready ## format Python
	$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

check: $(VENV)/.ready ## format, lint, types, import contracts, unit and layout tests; no root needed
	$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache | tail -n 8
	$(PYTEST) -q -n auto tests/unit tests/layout

test: check rules helm kernel api ## everything that this machine can prove (root)

rules: $(VENV)/.ready ## alert rules, their tests, the dashboards' queries and the metrics themselves, judged by promtool
	@PROMTOOL=$$(./scripts/promtool.sh) && export PROMTOOL && $(PYTEST) -q tests/prometheus

helm: $(VENV)/.ready ## the chart of deploy/helm by helm 4: lint, refusals, and the same objects as kubectl apply
	@./scripts/kube-tools.sh >/dev/null
	$(PYTEST) -q tests/helm

unit: $(VENV)/.ready ## pure core, no root, seconds
	$(PYTEST) -q -n auto tests/unit

layout: $(VENV)/.ready ## the C compiler judges the struct mirror
	$(PYTEST) -q tests/layout

kernel: $(VENV)/.ready ## real programs, cgroups and packets (root); fails where BPF cannot run
	$(PYTEST) -q tests/kernel

attack: $(VENV)/.ready ## the races and floods of a hostile task, for minutes (root)
	RACE_HISTORIES=400 $(PYTEST) -q -n auto --timeout 1800 tests/unit/test_sync_races.py
	ATTACK_SECONDS=60 ATTACK_ROUNDS=300 $(PYTEST) -q --timeout 1800 tests/kernel/test_attack.py tests/kernel/test_revocation.py

api: $(VENV)/.ready ## the agent against a real kube-apiserver and etcd on loopback, the CRDs against a current server (root)
	@[ -n "$$KUBEBUILDER_ASSETS" ] || ./scripts/kube-apiserver.sh >/dev/null
	@./scripts/crd-server.sh >/dev/null
	$(PYTEST) -q tests/api

e2e: $(VENV)/.ready ## the DaemonSet on a real kubelet in a virtual machine (root; minutes); E2E="-k drivers" is less
	@./scripts/e2e/run.sh $(E2E)

soak: $(VENV)/.ready ## 100 upgrades under load, 200 agents killed at any moment (root; half an hour)
	UPGRADE_SWAPS=100 UPGRADE_KILLS=200 $(PYTEST) -q -s tests/kernel/test_upgrade.py

bench: $(VENV)/.ready ## speed as ratios within one run (root); fails on none; BENCH=--quick is shorter
	@./scripts/apt.sh $(APT_BENCH)
	$(PY) -m bench $(BENCH)

matrix: $(VENV)/.ready ## the kernel tests in Debian's kernels, by QEMU (root): KERNELS="5.10 6.1", KERNEL=vmlinuz, DOCS=1, ARGS=
	@./scripts/apt.sh $(APT_MATRIX)
	$(PY) -m matrix $(KERNELS) $(abspath $(KERNEL)) $(if $(DOCS),--docs) $(ARGS)

bcc: $(VENV)/.ready ## the loader with each release's bcc, the image's in older kernels too (root): DOCS=1
	@./scripts/apt.sh $(APT_MATRIX)
	$(PY) -m matrix --bcc $(if $(DOCS),--docs) $(ARGS)

clean: ## what the targets made here
	rm -rf $(VENV) .venv-newest .venv-oldest .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
