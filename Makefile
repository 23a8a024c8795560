# Two commands do everything on a fresh Debian machine: `make demo` and `make test`.
#   make demo     prune a real model, tune it, compare it with the dense one, write a report
#   make test     build and run every test
#   make build    build/release/rarefy
#   make bench    operator and model benchmarks; rows go to bench/results/
#   make gpu      on a machine with an NVIDIA GPU: tests, compute-sanitizer and benchmarks
#   make lint     clang-format, clang-tidy and ruff;  make format applies what they can
#   make install  to PREFIX (default /usr/local), with find_package(rarefy)
#   make deps     only install or name the Debian packages that are missing

PREFIX ?= /usr/local
BUILD  := build/release
JOBS   ?= $(shell nproc)
# Ninja's progress is for terminals; warnings and errors come through in any case.
QUIET  := $(shell test -t 2 || echo -- --quiet)

.PHONY: build demo test bench gpu format lint install deps clean

build: deps $(BUILD)/build.ninja
	cmake --build $(BUILD) --target rarefy_cli -j $(JOBS) $(QUIET)

demo: build
	tools/demo.sh $(BUILD)/rarefy

test: deps
	tools/python_env.sh
	@cmake --preset release >/dev/null
	cmake --build $(BUILD) -j $(JOBS) $(QUIET)
	tools/run_tests.sh $(BUILD)

bench: build
	tools/bench.sh $(BUILD)/rarefy

gpu:
	tools/gpu.sh

format:
	tools/lint.sh --fix

lint: deps
	tools/lint.sh

install: deps $(BUILD)/build.ninja
	cmake --build $(BUILD) --target librarefy.so rarefy_cli -j $(JOBS) $(QUIET)
	cmake --install $(BUILD) --prefix $(PREFIX)

deps:
	@tools/install_deps.sh

$(BUILD)/build.ninja: CMakeLists.txt CMakePresets.json | deps
	@cmake --preset release >/dev/null

clean:
	rm -rf build
