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
.PHONY: help demo test test-rust test-loom test-tsan test-miri test-miri-queues test-python test-pythons test-benches soak bench fairness \
	wheel install lint format clean have-rust

help:
	@echo "make demo    a word count on fastmp and on multiprocessing, with and without a kill; then ratios"
	@echo "make test    all tests: Rust, loom models, Python against the installed wheel"
	@echo "make test-tsan  the core's threads under the thread sanitizer (needs rustup's rust-src)"
	@echo "make test-miri  the core's threads under Miri (needs a nightly Rust with miri and rust-src)"
	@echo "make test-pythons  the wheel's tests on every CPython that is here or can be made (ONLY=3.12,3.14)"
	@echo "make test-benches  each bench once, quickly, as a test"
	@echo "make soak    every primitive in eight processes that die at random, for ten minutes (SECONDS=60)"
	@echo "make bench   fastmp against multiprocessing, one table (ARGS='--quick --only queue')"
	@echo "make fairness  how processes share one lock, fastmp's and multiprocessing's (4 minutes)"
	@echo "make wheel   a release wheel in target/wheels"
	@echo "make lint    formatting, clippy, ruff, mypy, the stub against the module;  make format  mends the first"
	@echo "make clean   remove all that was built, the virtual environment too"

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

# One wheel for all of them; `REPORT` is that of `make test-python ARGS=--junit-xml=REPORT`, which may run beside it.
test-pythons: $(VENV)/.installed
	$(PY) $(CURDIR)/.ci/pythons.py $(if $(ONLY),--only $(ONLY)) $(if $(JOBS),--jobs $(JOBS)) \
		$(if $(REPORT),--junit $(REPORT)) $(WHEELS)/*.whl

test-benches: $(VENV)/.installed $(VENV)/.group-bench
	cd $(VENV) && $(PY) $(CURDIR)/benches/compare.py --quick --rounds 1 $(ARGS)

soak: $(VENV)/.installed
	cd $(VENV) && $(PY) $(CURDIR)/tests/soak.py --seconds $(or $(SECONDS),600) $(ARGS)

bench: $(VENV)/.installed $(VENV)/.group-bench
	@cd $(VENV) && $(PY) $(CURDIR)/benches/compare.py $(ARGS)

fairness: $(VENV)/.installed $(VENV)/.group-bench
	@cd $(VENV) && $(PY) $(CURDIR)/benches/fairness.py $(ARGS)

wheel: $(WHEELS)/.built
install: $(VENV)/.installed

lint: $(VENV)/.installed $(VENV)/.group-lint
	@if cargo fmt --version >/dev/null 2>&1; then set -x; cargo fmt --all --check; \
		else echo "note: no rustfmt here, Rust's format is not checked"; fi
	@if cargo clippy --version >/dev/null 2>&1; then set -x; cargo clippy --workspace --all-targets -- -D warnings; \
		else echo "note: no clippy here, Rust is not linted"; fi
	# As PyO3 would find a free-threaded interpreter: what is compiled for one alone is checked without one.
	PYO3_CONFIG_FILE=$(CURDIR)/.ci/free-threaded.txt CARGO_TARGET_DIR=target/free-threaded \
		cargo check --quiet --package fastmp-py
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	for version in 3.11 3.15; do $(PY) -m mypy --python-version $$version python/fastmp || exit; done
	cd $(VENV) && $(PY) -m mypy.stubtest --ignore-disjoint-bases \
		--ignore-unused-allowlist --allowlist $(CURDIR)/tests/stubtest_allow.txt fastmp._native

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
