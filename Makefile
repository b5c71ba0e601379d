# Thin names for the commands of CONTRIBUTING.md; no logic lives here.
.PHONY: setup test lint native qemu simulated sanitize sanitize-python tsan

setup:
	python3 -m venv .venv
	.venv/bin/pip install --upgrade pip "scikit-build-core>=1.1" "pybind11>=3.1" ninja
	.venv/bin/pip install --no-build-isolation -e '.[dev]'

test:
	pytest

lint:
	ruff check
	ruff format --check
	mypy
	stubtest edge._native --allowlist tests/stubtest_allowlist.txt
	git ls-files '*.h' '*.cpp' | xargs clang-format --dry-run --Werror

native:
	cmake --preset native
	cmake --build --preset native
	ctest --preset native

# Needs Debian's g++-aarch64-linux-gnu and qemu-user.
qemu:
	cmake --preset emulated-aarch64
	cmake --build --preset emulated-aarch64
	ctest --preset emulated-aarch64
	cmake --preset emulated-x86
	cmake --build --preset emulated-x86
	ctest --preset emulated-x86

# Needs an x86-64 CPU with AVX2 and Debian's libsimde-dev.
simulated:
	cmake --preset simulated
	cmake --build --preset simulated
	ctest --preset simulated

sanitize:
	cmake --preset sanitize
	cmake --build --preset sanitize
	ctest --preset sanitize

tsan:
	cmake --preset tsan
	cmake --build --preset tsan
	ctest --preset tsan

# Replaces the installed extension by a sanitized one; install again afterwards.
sanitize-python:
	pip install --quiet --no-deps -e . -C cmake.define.EDGE_SANITIZE=ON -C build-dir=build/sanitized
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 pytest -q -m "not llama" tests/hostile tests/parity/test_step_cache.py tests/parity/test_step_arguments.py
