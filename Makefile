# `make` lists the targets. Variables that they read:
#   PG_CONFIG=/path/to/pg_config   the PostgreSQL to build for and to run (default: the newest installed)
#   DESTDIR=/path                  install under this directory
#   TESTS="tests/entry"            the tests by a real client that `make test` runs (default: all)
#   MAJORS="16 17"                 the PostgreSQL versions of test-all and test-restore
#   REGRESS="setup lookup"         the themes of installcheck
#   CASES="counting views"         the cases of bench

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: prerequisites ## A day of a story application against a private server under target/demo
	@tests/tools/cluster.sh stop $(DEMO) # a running server would keep the library that it has loaded
	@$(MAKE) install
	@tests/tools/cluster.sh start $(DEMO)
	@examples/demo/demo.sh $(DEMO)

psql: ## Open psql in the database of the demo
	@[ -d $(DEMO) ] || { echo 'There is no demo yet: run "make demo" first.' >&2; exit 1; }
	@tests/tools/cluster.sh start $(DEMO)
	@tests/tools/cluster.sh psql $(DEMO) -d demo

demo-stop: ## Stop the server of the demo
	@tests/tools/cluster.sh stop $(DEMO)

install: prerequisites ## Build the extension and install it into the server of PG_CONFIG (or under DESTDIR)
	@echo '== Building for PostgreSQL $(MAJOR) and installing: about 3 minutes the first time, seconds after that'
	@rm -rf target/staging
	@$(call build,$(or $(DESTDIR),target/staging))
	@$(if $(DESTDIR),,$(SUDO) cp -R --remove-destination target/staging/. /)

package: prerequisites ## Build a tree of files to pack, under target/package
	@echo '== Building for PostgreSQL $(MAJOR): about 3 minutes the first time, seconds after that'
	@rm -rf target/package/pg$(MAJOR)
	@$(call build,target/package/pg$(MAJOR))
	@find target/package/pg$(MAJOR) -type f

installcheck: ## Check the extension that is installed: pg_regress against the server of PGHOST and PGPORT
	@tests/tools/installcheck.sh $(REGRESS)

# A check in tests/lint is a program that says what is wrong, and then fails.
lint: prerequisites ## Formatting, clippy, and each check in tests/lint
	@echo '== Formatting and clippy: about 1 minute the first time'
	cargo fmt --all --check
	cargo clippy --all-targets $(FEATURES) -- -D warnings
	@for check in tests/lint/*; do echo "$$check"; "$$check" || exit; done

test: lint target/venv/requirements.txt ## All checks: lint, tests inside the server, install, tests by a real client
	@tests/tools/cluster.sh stop $(DEMO)
	@tests/tools/pgbouncer.sh target/tools
	@$(MAKE) test-unit
	@$(MAKE) install # after these tests, which have installed a build of their own
	@echo '== Tests by a real client, against servers of their own: some minutes'
	$(PYTEST) $(TESTS)

test-unit: prerequisites ## Tests inside the server, which install a build of their own
	@echo '== Tests inside the server: about 2 minutes the first time, seconds after that'
	@SUDO='$(SUDO)' tests/tools/unit_tests.sh

test-all: tools target/venv/requirements.txt ## The same for each PostgreSQL from 14 to 18, or those of MAJORS="16 17": some 15 minutes each
	@tests/tools/test_all.sh $(MAJORS)

test-restore: tools target/venv/requirements.txt ## Dumps of each of these versions, restored into it and the next, and pg_upgrade: some 15 minutes
	@for major in $(MAJORS); do tests/tools/make_for.sh $$major install || exit; done
	MAJORS='$(MAJORS)' $(PYTEST) tests/long/restore_matrix.py tests/long/upgrade_matrix.py

soak: ## Half an hour of load, and of a session that blocks maintenance
hostile: ## Ten minutes of cancellations and DDL under clients whose every answer is checked
crash: ## Fifty crashes under load, and a disk that runs full: nothing acknowledged is lost
fencing: ## Ten minutes of leases against edits, cancellations and crashes: nothing outdated is served
fuzz: ## An hour of generated statements, keys, batches and policies: no crash, no internal error
load: ## A quarter of an hour of 200 connections on a million entries, beside a lock that maintenance waits for
soak: AFTERWARDS = IPC_SITTER=600 $(PYTEST) tests/worker/test_worker_waits.py
fuzz: AFTERWARDS = GENERATED_CASES=2000 $(PYTEST) tests/entry/test_generated_input.py
soak hostile crash fencing fuzz load: prerequisites target/venv/requirements.txt
	@$(MAKE) install
	$(PYTHON) tests/long/$@.py
	$(AFTERWARDS)

bench: partman target/bench-venv/requirements.txt ## Measure it on this machine: all cases into docs/, or those of CASES="counting views"
	@tests/tools/pgbouncer.sh target/tools
	@$(MAKE) install
	target/bench-venv/bin/python -m bench $(or $(CASES),--output docs)

bench-quick: partman target/bench-venv/requirements.txt ## The targets with 100,000 entries, in less than 5 minutes
	@tests/tools/pgbouncer.sh target/tools
	@$(MAKE) install
	target/bench-venv/bin/python -m bench --quick --output target/bench/quick

clean: ## Stop the demo and remove everything under target
	@for cluster in target/demo/*/; do [ ! -d "$$cluster" ] || tests/tools/cluster.sh remove "$$cluster" || exit; done
	rm -rf target

# ── what the targets above need ──────────────────────────────────────────────────────────────────

.PHONY: help demo psql demo-stop install package installcheck lint test test-unit test-all test-restore soak hostile crash fencing fuzz load \
	bench bench-quick clean packages tools prerequisites partman
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Looked up whenever a recipe runs, because an earlier recipe may have installed a server.
PG_CONFIG ?= $(shell tests/tools/pg_config.sh)
MAJOR = $(shell $(PG_CONFIG) --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
FEATURES = --no-default-features --features pg$(MAJOR)
DEMO = target/demo/pg$(MAJOR)
TESTS ?= tests
MAJORS ?= 15 16 17 18 14
PYTHON = target/venv/bin/python
PYTEST = $(PYTHON) -m pytest -q -o cache_dir=target/pytest_cache
# cargo-pgrx must have the version of the library pgrx. Its own files stay under target/.
PGRX := $(shell sed -n 's/^pgrx = "=\(.*\)"/\1/p' Cargo.toml)
export PATH := $(CURDIR)/target/tools/bin:$(PATH)
export PGRX_HOME := $(CURDIR)/target/pgrx
export PYTHONDONTWRITEBYTECODE := 1
export PG_CONFIG

# sudo, if the caller may not write into the server's directories.
SUDO = $(shell [ "$$(id -u)" = 0 ] || \
	{ [ -w "$$($(PG_CONFIG) --pkglibdir)" ] && [ -w "$$($(PG_CONFIG) --sharedir)/extension" ]; } || echo sudo)

# Not `cargo pgrx install`, because that overwrites the library in place, which a running server has mapped. The scripts of
# released versions are copied, because cargo-pgrx takes the update scripts only.
build = cargo pgrx package $(FEATURES) --pg-config $(PG_CONFIG) --out-dir '$(1)' && \
	cp sql/infinite_pages_cache--*.sql '$(1)'"$$($(PG_CONFIG) --sharedir)/extension/"

packages:
	@tests/tools/packages.sh $(MAKECMDGOALS)

tools: packages
	@[ "$$(cargo pgrx --version 2>/dev/null)" = 'cargo-pgrx $(PGRX)' ] || \
		{ echo '== Building cargo-pgrx $(PGRX) under target/tools: about 2 minutes'; \
		cargo install cargo-pgrx --version $(PGRX) --locked --debug --root target/tools; }

prerequisites: tools
	@grep -qxF 'pg$(MAJOR) = "$(PG_CONFIG)"' target/pgrx/config.toml 2>/dev/null || \
		cargo pgrx init --no-run --pg$(MAJOR)=$(PG_CONFIG)

# pg_partman is measured where the distribution has it for this PostgreSQL.
partman: prerequisites
	@tests/tools/packages.sh partman || echo 'pg_partman is left out of what is compared' >&2

target/venv/requirements.txt: tests/requirements.txt
target/bench-venv/requirements.txt: bench/requirements.txt tests/requirements.txt
target/venv/requirements.txt target/bench-venv/requirements.txt:
	@echo '== Creating a Python environment under $(@D): a few seconds'
	python3 -m venv --clear $(@D)
	$(@D)/bin/pip install -r $<
	cp $< $@
