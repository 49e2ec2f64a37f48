# `make help` lists what there is. Environments are made when first needed: .venv, and .venv-sam for the SAM CLI.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
# `sam build` wants the runtime's own python3.13 on PATH: the environment of the SAM CLI has it.
SAM := PATH="$(CURDIR)/.venv-sam/bin:$$PATH" SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=us-east-1 .venv-sam/bin/sam
ARCHITECTURE := $(if $(filter arm64 aarch64,$(shell uname -m)),arm64,x86_64)
CODE := functions layers/common/python local tests
COMPILE := .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.13

.PHONY: help
help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: ready ready-sam
ready:
	@local/setup.sh dev
ready-sam:
	@local/setup.sh sam

.PHONY: demo
demo: ready ## the whole story on this machine; ACCESS_LOG=file takes a web server's log as the traffic
	@$(PYTHON) -m local.demo $(if $(ACCESS_LOG),--access-log "$(ACCESS_LOG)")

.PHONY: run
run: ready ## keep the system up, print its addresses, tokens and every event that goes out; DOCKER=1 lets sam local in
	@$(PYTHON) -m local.run $(if $(DOCKER),--docker)

.PHONY: test
test: ready ## every test; ARGS="tests/unit -k money" for some
	@$(PYTHON) -m pytest -q -n 2 $(ARGS)

.PHONY: check
check: format-check lint types template-lint pages-check test ## everything that must hold before a change lands

.PHONY: format
format: ready ## write the code as ruff formats it
	@$(PYTHON) -m ruff format --quiet $(CODE)
	@$(PYTHON) -m ruff check --quiet --fix $(CODE)

.PHONY: format-check
format-check: ready
	@$(PYTHON) -m ruff format --check --quiet $(CODE) || { $(PYTHON) -m ruff format --check $(CODE); exit 1; }

.PHONY: lint
lint: ready ## rules of style, and the direction of imports
	@$(PYTHON) -m ruff check --quiet $(CODE)
	@PYTHONPATH=layers/common/python .venv/bin/lint-imports --no-cache

.PHONY: types
types: ready ## mypy, strict, over functions, layer, local system and tests
	@$(PYTHON) -m mypy $(CODE)

.PHONY: openapi states event-schema pages-check
openapi: ready ## write the API's description as the handlers make it
	@PYTHONPATH=layers/common/python $(PYTHON) -m local.openapi

states: ready ## draw the state machines into docs/states.md
	@PYTHONPATH=layers/common/python $(PYTHON) -m local.states

event-schema: ready ## write the JSON Schema of our events into docs/events.schema.json
	@PYTHONPATH=layers/common/python $(PYTHON) -m local.event_schema

pages-check: ready
	@PYTHONPATH=layers/common/python $(PYTHON) -m local.openapi --check
	@PYTHONPATH=layers/common/python $(PYTHON) -m local.states --check
	@PYTHONPATH=layers/common/python $(PYTHON) -m local.event_schema --check

.PHONY: template-lint
template-lint: ready-sam ## the template as written, and as SAM translates it
	@$(SAM) validate --lint --template template.yaml
	@.venv-sam/bin/python -m local.lint_template template.yaml

# sam build, its artifacts into the folder $1, bytecode included. $2: more arguments.
define sam-build
@$(SAM) build --cached --parallel --build-dir $1 $2
@for layer in CommonLayer DependenciesLayer; do \
  .venv-sam/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s $1/$$layer -p /opt $1/$$layer; done
endef

# Layers are read-only in Lambda, so without bytecode every cold start compiles what it imports: 0.9 s instead of 0.3.
# Unchecked hashes and Lambda's own paths make it the same bytes on every machine, hence no new layer version.
.PHONY: build
build: ready-sam ## sam build, the layers' bytecode included
	$(call sam-build,.aws-sam/build)

# In a folder of its own: what is deployed must never hold wheels for this machine by mistake.
.PHONY: build-local
build-local: ready-sam ## sam build for sam local, for this machine's processor
	$(call sam-build,.aws-sam/local,--parameter-overrides Architecture=$(ARCHITECTURE) AccessLogGroup=access-logs)

.PHONY: sam-check
sam-check: ready build-local ## every function under sam local invoke, in a container; needs Docker (docs/sam-local.md)
	@$(PYTHON) -m local.sam_check $(ARGS)

.PHONY: lock
lock: ready ## compile the pinned requirements anew
	@$(COMPILE) layers/dependencies/requirements.in -o layers/dependencies/requirements.txt
	@$(COMPILE) -c layers/dependencies/requirements.txt local/requirements/dev.in -o local/requirements/dev.txt
	@$(COMPILE) local/requirements/sam.in -o local/requirements/sam.txt
	@$(COMPILE) local/requirements/audit.in -o local/requirements/audit.txt
	@$(COMPILE) local/requirements/lambda.in -o local/requirements/lambda.txt

.PHONY: audit
audit: ## known vulnerabilities of what we ship, and checkov on the template; needs the network
	@local/setup.sh audit
	@.venv-audit/bin/checkov --config-file .checkov.yaml
	@.venv-audit/bin/pip-audit --disable-pip --require-hashes -r layers/dependencies/requirements.txt

.PHONY: load
load: ready ## fifty clients for two minutes with faults on, then count; ARGS="--clients 10 --seconds 30"
	@$(PYTHON) -m local.load $(ARGS)

.PHONY: clean
clean: ## remove what was built, the environments included
	@rm -rf .venv .venv-sam .venv-audit .venv.lock .venv-sam.lock .aws-sam .local .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find functions layers local tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: simulate
simulate: ready ## worlds with crashes, races and faults: SEEDS=a-b, KINDS=crash,two,three,all
	@$(PYTHON) -m local.simulate run --seeds "$(or $(SEEDS),0-9)" --kinds "$(or $(KINDS),crash,two,three,all)"

.PHONY: simulate-ci
simulate-ci: ready ## what every change runs: every crash point of 50 seeds, 20,000 worlds of two workers, and others
	@$(PYTHON) -m local.simulate ci

.PHONY: simulate-long
simulate-long: ready ## WORLDS=1000000 worlds, going on where REPORT=file stopped
	@$(PYTHON) -m local.simulate long --worlds "$(or $(WORLDS),1000000)" $(if $(REPORT),--report "$(REPORT)")

.PHONY: bench
bench: ready ## every figure against its target, numbers into .local/bench.json; ARGS=--quick
	@PYTHONPATH=layers/common/python $(PYTHON) -m local.bench $(ARGS)

.PHONY: mutants
mutants: ready ## plant faults in a copy of the code; every one must be noticed
	@$(PYTHON) -m local.mutants $(if $(ONLY),--only "$(ONLY)")
