#!/bin/sh
# Installs a build into a scratch prefix and builds examples/embed against it with find_package(rarefy), as a user would.
set -eu
build=${1:?usage: run.sh BUILD_DIR}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cmake --install "$build" --prefix "$scratch/prefix" >/dev/null
cmake -S examples/embed -B "$scratch/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$scratch/prefix" >/dev/null
cmake --build "$scratch/build" >/dev/null
"$scratch/build/thin_matrix"
"$scratch/build/generate" examples/models/tiny-lm
test -x "$scratch/prefix/bin/rarefy"
"$scratch/prefix/bin/rarefy" --version
echo "installed library: works"
