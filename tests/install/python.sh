#!/bin/sh
# Builds the wheel over an installed library, which takes seconds, installs it in a fresh virtual environment and uses it there: what
# `pip install .` does, less compiling the library.
set -eu
build=${1:?usage: python.sh BUILD_DIR}
interpreter="$build/python/interpreter"
[ -f "$interpreter" ] || { echo "installed package: skipped, $build has no Python package"; exit 0; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cmake --install "$build" --prefix "$scratch/prefix" >/dev/null
"$(cat "$interpreter")" -m venv "$scratch/venv"
# Targets and folders of the default build stay out of it.
"$scratch/venv/bin/python" -m pip install -q --disable-pip-version-check . \
  -C cmake.define.RAREFY_PREBUILT="$scratch/prefix" -C build-dir="$scratch/build" -C build.targets=rarefy_python -C build.targets=rarefy_python_stub
cd "$scratch"
venv/bin/rarefy --version
venv/bin/python - <<'END'
import sys
import numpy as np
import rarefy

assert "torch" not in sys.modules
matrix = rarefy.pack(np.eye(64, dtype=np.float32), "bitmap")
x = np.arange(64, dtype=np.float32)[None]
assert np.array_equal(rarefy.spmm(matrix, x), x)
print("installed package: works,", rarefy.__version__, rarefy.__file__.replace(sys.prefix, "<venv>"))
END
