#!/bin/sh
# clang-format over every C++ and CUDA file, ruff over every Python file, then clang-tidy over every source. `lint.sh --fix` formats in place.
set -eu
cd "$(dirname "$0")/.."
tools/install_deps.sh lint
tools/python_env.sh
ruff=build/venv/bin/ruff
[ -x "$ruff" ] || ruff=true
files=$(git ls-files '*.h' '*.cc' '*.cu' '*.cuh' '*.c')
if [ "${1:-}" = --fix ]; then
  clang-format -i $files
  $ruff check -q --fix .
  $ruff format -q .
  exit 0
fi
# A configured folder of its own: clang cannot read the headers that GCC has precompiled.
build=build/lint
cmake --preset release -B "$build" -DRAREFY_PRECOMPILE=OFF >/dev/null
clang-format --dry-run --Werror $files
$ruff check -q .
$ruff format -q --check .
sources=$(git ls-files 'src/*.cc')
# One process a core; only what is wrong is printed.
echo "$sources" | xargs -P "$(nproc)" -n 4 clang-tidy -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option 2>"$build/clang-tidy.err" ||
  { grep -v 'warnings generated\|^Suppressed\|^Use -header' "$build/clang-tidy.err" >&2; exit 1; }
echo "lint: clean"
