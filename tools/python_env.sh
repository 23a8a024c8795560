#!/bin/sh
# Makes build/venv, the Python that builds and tests the package in python/; does nothing where it is as it should be.
# torch joins where that is cheap: where Python already has it, or where pip finds a build of it without CUDA's packages, which are
# gigabytes. RAREFY_TEST_TORCH=1 installs it in any case, RAREFY_TEST_TORCH=0 never.
set -eu
cd "$(dirname "$0")/.."
torch=torch==2.13.0
venv=build/venv
python=${PYTHON:-python3}
want="$(cat tools/python-packages.txt tools/python-packages-torch.txt tools/python_env.sh) $($python --version) ${RAREFY_TEST_TORCH:-}"
[ -f "$venv/made" ] && [ "$(cat "$venv/made")" = "$want" ] && exit 0

leave_out() {
  echo "python_env: $1; the Python package is neither built nor tested" >&2
  rm -rf "$venv"
  exit 0
}
has_torch() { "$1" -c 'import torch' 2>/dev/null; }

mkdir -p build
rm -rf "$venv"
share=
[ "${RAREFY_TEST_TORCH:-}" != 0 ] && has_torch "$python" && share=--system-site-packages
"$python" -m venv $share "$venv" 2>/dev/null || leave_out "$python cannot make a virtual environment"
pip="$venv/bin/python -m pip --disable-pip-version-check -q"
$pip install -r tools/python-packages.txt 2>"$venv/pip.log" || leave_out "pip cannot install $(tr '\n' ' ' <tools/python-packages.txt)"

if [ "${RAREFY_TEST_TORCH:-}" != 0 ] && ! has_torch "$venv/bin/python"; then
  cheap() {
    $pip install --dry-run --report "$venv/torch.json" "$torch" >"$venv/pip.log" 2>&1 && ! grep -q '"name": "\(nvidia\|cuda\)' "$venv/torch.json"
  }
  if [ "${RAREFY_TEST_TORCH:-}" = 1 ] || cheap; then
    $pip install "$torch" 2>"$venv/pip.log" || echo "python_env: pip cannot install $torch; its tests are skipped" >&2
  else
    echo "python_env: $torch would bring CUDA's packages here (gigabytes); its tests are skipped, RAREFY_TEST_TORCH=1 runs them" >&2
  fi
fi
if has_torch "$venv/bin/python"; then
  $pip install -r tools/python-packages-torch.txt 2>"$venv/pip.log" || echo "python_env: pip cannot install transformers; its tests are skipped" >&2
fi
printf '%s' "$want" >"$venv/made"
