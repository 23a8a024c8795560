#!/bin/sh
# clang-format over every C++ and CUDA file, then clang-tidy over every source of BUILD_DIR. `lint.sh --fix` formats in place.
set -eu
cd "$(dirname "$0")/.."
tools/install_deps.sh lint
files=$(git ls-files '*.h' '*.cc' '*.cu' '*.c')
if [ "${1:-}" = --fix ]; then
  clang-format -i $files
  exit 0
fi
build=${1:?usage: lint.sh BUILD_DIR | --fix}
clang-format --dry-run --Werror $files
sources=$(git ls-files 'src/*.cc')
# One process a core; only what is wrong is printed.
echo "$sources" | xargs -P "$(nproc)" -n 4 clang-tidy -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option 2>"$build/clang-tidy.err" ||
  { grep -v 'warnings generated\|^Suppressed\|^Use -header' "$build/clang-tidy.err" >&2; exit 1; }
echo "lint: clean"
