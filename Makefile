# `make` lists the targets. PG_CONFIG=/path/to/pg_config chooses the PostgreSQL to build for and to run.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo psql demo-stop test test-all test-restore soak hostile crash fuzz load bench bench-quick lint install package clean packages tools prerequisites partman
MAKEFLAGS += --no-print-directory

# Looked up only when a recipe runs, since an earlier one may have to install it: the newest server
# that can be built for (headers, or with DOCS_RS the bindings that pgrx brings) and run.
PG_CONFIG ?= $(shell for found in $$(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -rV) pg_config; do \
	if $(call complete,$$found); then command -v $$found; break; fi; done)
complete = { { [ -n "$${DOCS_RS:-}" ] || [ -e "$$($(1) --includedir-server)/postgres.h" ]; } && [ -x "$$($(1) --bindir)/postgres" ]; } 2>/dev/null
MAJOR = $(shell $(PG_CONFIG) --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
FEATURES = --no-default-features --features pg$(MAJOR)
DEMO = target/demo/pg$(MAJOR)

# cargo-pgrx must be of the very version of the library. What it keeps stays under target/.
PGRX := $(shell sed -n 's/^pgrx = "=\(.*\)"/\1/p' Cargo.toml)
export PATH := $(CURDIR)/target/tools/bin:$(PATH)
export PGRX_HOME := $(CURDIR)/target/pgrx
export PG_CONFIG

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: prerequisites ## A day of a story application against a private server under target/demo
	@tests/tools/cluster.sh stop $(DEMO) # a running server would keep the library that it has loaded
	$(MAKE) install
	tests/tools/cluster.sh start $(DEMO)
	examples/demo/demo.sh $(DEMO)

psql: ## Open psql in the database of the demo
	@[ -d $(DEMO) ] || { echo 'There is no demo yet: run "make demo" first.' >&2; exit 1; }
	tests/tools/cluster.sh start $(DEMO)
	tests/tools/cluster.sh psql $(DEMO) -d demo

demo-stop: ## Stop the server of the demo
	@tests/tools/cluster.sh stop $(DEMO)

# cargo pgrx test installs a test build of its own, so the install comes after it. It has no way to
# start a server as root, nor to write to a system's directories as anybody else: --runas serves both.
test soak hostile crash fuzz load: PACKAGES += sudo python3-venv
fuzz: PACKAGES += sqlsmith
test: PACKAGES += curl libevent-dev libc-ares-dev # of PgBouncer
TESTS ?= tests
test: lint target/venv/requirements.txt ## All checks: lint, tests inside the server, install, tests by a real client
	@tests/tools/cluster.sh stop $(DEMO)
	tests/tools/pgbouncer.sh target/tools
	echo '== Tests inside the server: about 2 minutes the first time, seconds after that'
	runas=()
	if [ "$$(id -u)" = 0 ] || ! { $(writable); }; then
		pgdata=$$(mktemp -d -p /tmp)
		trap '$(as_root) rm -rf "$$pgdata"' EXIT
		chmod 711 "$$pgdata" # the tests pass through it as whoever calls
		$(as_root) chown postgres "$$pgdata"
		runas=(--runas postgres --pgdata "$$pgdata")
	fi
	export USER=$$(id -un)
	# One at a time: they share a database, and each locks its keys in an order of its own until it ends.
	RUST_TEST_THREADS=1 CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1 cargo pgrx test pg$(MAJOR) --no-default-features "$${runas[@]}"
	$(MAKE) install
	echo '== Tests by a real client, against servers of their own: some minutes'
	PYTHONDONTWRITEBYTECODE=1 target/venv/bin/python -m pytest $(TESTS) -q -o cache_dir=target/pytest_cache

# A version that cannot be had is a failure. The 14 that tests/tools/postgresql.sh fetches has no headers to build with,
# and client programs of 16, which write what 14 cannot read: a part of the suite runs on it.
MAJORS ?= 15 16 17 18 14
make_for = prebuilt=(); pg_config=$$(tests/tools/postgresql.sh "$$major") && \
	case $$pg_config in */target/postgresql/14/*) prebuilt=(DOCS_RS=1 RUSTC_WRAPPER='$(CURDIR)/tests/tools/prebuilt_bindings.sh' \
		TESTS='$(patsubst %,tests/%.py,entry/test_lookups entry/test_lookup_paths lifecycle/test_setup partition/test_partitions security/test_tenants lifecycle/test_restore)') ;; esac && \
	env "$${prebuilt[@]}" $(MAKE) PG_CONFIG="$$pg_config"
test-all test-restore: PACKAGES += python3-venv bison flex perl zlib1g-dev $(if $(shell command -v npm),,npm)
test-all: tools target/venv/requirements.txt ## The same for each PostgreSQL from 14 to 18, or those of MAJORS="16 17": some 15 minutes each
	@rm -rf target/test-all
	mkdir -p target/test-all
	status=0
	for major in $(MAJORS); do
		log=target/test-all/pg$$major.log result=passed
		if ! { $(make_for) test; } 2>&1 | tee "$$log"; then
			result=FAILED status=1
		fi
		{
			echo "== PostgreSQL $$major: $$result"
			grep -aE '^(test result: |FAILED |ERROR |postgresql.sh: |error(\[|:)|[0-9]+ (passed|failed|error))' "$$log" || true
		} >>target/test-all/summary
	done
	echo
	cat target/test-all/summary
	exit $$status

test-restore: tools target/venv/requirements.txt ## Dumps of each of these versions, restored into it and the next, and pg_upgrade: some 15 minutes
	@for major in $(MAJORS); do
		$(make_for) install
	done
	MAJORS='$(MAJORS)' PYTHONDONTWRITEBYTECODE=1 target/venv/bin/python -m pytest tests/long/restore_matrix.py tests/long/upgrade_matrix.py -q -o cache_dir=target/pytest_cache

soak: prerequisites target/venv/requirements.txt ## Half an hour of load, and of a session that blocks maintenance
	@$(MAKE) install
	export PYTHONDONTWRITEBYTECODE=1
	echo '== 20 minutes: clients write, read and let expire while the worker ticks'
	target/venv/bin/python tests/long/soak.py
	echo '== 10 minutes: a session stays idle in a transaction that blocks a drop'
	IPC_SITTER=600 target/venv/bin/python -m pytest -q tests/worker/test_worker_waits.py -o cache_dir=target/pytest_cache

hostile: prerequisites target/venv/requirements.txt ## Ten minutes of cancellations and DDL under clients whose every answer is checked
	@$(MAKE) install
	PYTHONDONTWRITEBYTECODE=1 target/venv/bin/python tests/long/hostile.py

crash: prerequisites target/venv/requirements.txt ## Fifty crashes under load, and a disk that runs full: nothing acknowledged is lost
	@$(MAKE) install
	PYTHONDONTWRITEBYTECODE=1 target/venv/bin/python tests/long/crash.py

fuzz: prerequisites target/venv/requirements.txt ## An hour of generated statements, keys, batches and policies: no crash, no internal error
	@$(MAKE) install
	export PYTHONDONTWRITEBYTECODE=1
	GENERATED_CASES=2000 target/venv/bin/python -m pytest -q tests/entry/test_generated_input.py -o cache_dir=target/pytest_cache
	target/venv/bin/python tests/long/fuzz.py

load: prerequisites target/venv/requirements.txt ## A quarter of an hour of 200 connections on a million entries, beside a lock that maintenance waits for
	@$(MAKE) install
	PYTHONDONTWRITEBYTECODE=1 target/venv/bin/python tests/long/load.py

# A run of all cases is what docs/ shows.
bench bench-quick: PACKAGES += python3-venv redis-server
bench: partman target/bench-venv/requirements.txt ## Measure it on this machine: all cases into docs/, or those of CASES="counting views"
	@$(MAKE) install
	PYTHONDONTWRITEBYTECODE=1 target/bench-venv/bin/python -m bench $(or $(CASES),--output docs)

bench-quick: partman target/bench-venv/requirements.txt ## The targets with 100,000 entries, in less than 5 minutes
	@$(MAKE) install
	PYTHONDONTWRITEBYTECODE=1 target/bench-venv/bin/python -m bench --quick --output target/bench/quick

lint: prerequisites ## Formatting and clippy
	@echo '== Formatting and clippy: about 1 minute the first time'
	cargo fmt --all --check
	cargo clippy --all-targets $(FEATURES) -- -D warnings

install: prerequisites ## Build the extension and install it into the server of PG_CONFIG (or under DESTDIR)
	@echo '== Building for PostgreSQL $(MAJOR) and installing: about 3 minutes the first time, seconds after that'
	if [ -n '$(DESTDIR)' ]; then
		$(call build,'$(DESTDIR)')
	else
		# Not `cargo pgrx install`: it overwrites the library in place, under the feet of a running server.
		rm -rf target/staging
		$(call build,target/staging)
		as_root=
		$(writable) || as_root='$(as_root)'
		$$as_root cp -R --remove-destination target/staging/. /
	fi

package: prerequisites ## Build a tree of files to pack, under target/package
	@echo '== Building for PostgreSQL $(MAJOR): about 3 minutes the first time, seconds after that'
	rm -rf target/package/pg$(MAJOR)
	$(call build,target/package/pg$(MAJOR))
	find target/package/pg$(MAJOR) -type f

clean: ## Stop the demo and remove everything under target
	@for cluster in target/demo/*/; do
		if [ -d "$$cluster" ]; then tests/tools/cluster.sh remove "$$cluster"; fi
	done
	rm -rf target

# ── what the targets above need ──────────────────────────────────────────────────────────────────

# cargo-pgrx takes the update scripts and leaves the scripts of released versions behind.
build = cargo pgrx package $(FEATURES) --pg-config $(PG_CONFIG) --out-dir $(1) && \
	cp sql/infinite_pages_cache--*.sql $(1)"$$($(PG_CONFIG) --sharedir)/extension/"
writable = [ -w "$$($(PG_CONFIG) --pkglibdir)" ] && [ -w "$$($(PG_CONFIG) --sharedir)/extension" ]
as_root = $(if $(filter 0,$(shell id -u)),,sudo)

# On Debian and Ubuntu, what is missing of these and of PostgreSQL is installed.
PACKAGES = build-essential pkg-config libclang-dev
packages:
	@command -v cargo >/dev/null || { echo 'Rust is missing: install it from https://rustup.rs' >&2; exit 1; }
	missing=()
	if command -v apt-get >/dev/null; then
		for package in $(PACKAGES); do
			dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null | grep -qx installed || missing+=("$$package")
		done
	fi
	# PostgreSQL: the major that PG_CONFIG names, or the one of the distribution.
	if ! $(call complete,'$(PG_CONFIG)'); then
		major=$$(sed -nE 's|^/usr/lib/postgresql/([0-9]+)/bin/pg_config$$|\1|p' <<<'$(PG_CONFIG)')
		if ! command -v apt-get >/dev/null || { [ -n '$(PG_CONFIG)' ] && [ -z "$$major" ]; }; then
			echo 'No PostgreSQL with server headers at PG_CONFIG=$(PG_CONFIG); install it or name another pg_config' >&2
			exit 1
		fi
		missing+=("postgresql$${major:+-$$major}" "postgresql-server-dev-$${major:-all}")
	fi
	[ $${#missing[@]} -gt 0 ] || exit 0
	echo "== Installing $${missing[*]}: about 1 minute"
	if [ "$$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
		echo "These need root, and there is no sudo. As root: apt-get install $${missing[*]}" >&2
		exit 1
	fi
	$(as_root) apt-get update
	$(as_root) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$${missing[@]}"

tools: packages
	@[ "$$(cargo pgrx --version 2>/dev/null)" = 'cargo-pgrx $(PGRX)' ] && exit 0
	echo '== Building cargo-pgrx $(PGRX) under target/tools: about 2 minutes'
	cargo install cargo-pgrx --version $(PGRX) --locked --debug --root target/tools

prerequisites: tools
	@grep -qxF 'pg$(MAJOR) = "$(PG_CONFIG)"' target/pgrx/config.toml 2>/dev/null && exit 0
	cargo pgrx init --no-run --pg$(MAJOR)=$(PG_CONFIG)

# pg_partman is measured where the distribution has it for this PostgreSQL.
partman: prerequisites
	@package=postgresql-$(MAJOR)-partman
	command -v apt-cache >/dev/null && [ -n "$$(apt-cache search --names-only "^$$package\$$")" ] || exit 0
	$(MAKE) packages PACKAGES=$$package || echo 'pg_partman is left out of what is compared' >&2

target/venv/requirements.txt: tests/requirements.txt
target/bench-venv/requirements.txt: bench/requirements.txt tests/requirements.txt
target/venv/requirements.txt target/bench-venv/requirements.txt:
	@echo '== Creating a Python environment under $(@D): a few seconds'
	python3 -m venv --clear $(@D)
	$(@D)/bin/pip install -r $<
	cp $< $@
