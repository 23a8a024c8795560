#!/bin/sh
# Runs every test program of a build folder and the Python package's tests, where it was built, and ends with one line: how many tests
# passed, failed and were skipped. A program that crashes counts as one failed test more.
set -u
build=${1:?usage: run_tests.sh BUILD_DIR [PROGRAM ...]}
shift
only=" $* "
# Tests leave the user's plan cache alone.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export RAREFY_CACHE="$scratch/cache"

passed=0 failed=0 skipped=0
# tally NAME STATUS SECONDS: counts and prints what $scratch/NAME.{xml,log} say; Google Test and pytest write much the same.
tally() {
  ok=0 bad=0 skip=0
  if [ -s "$scratch/$1.xml" ]; then
    # The first element of the kind that carries the totals.
    totals=$(grep -o '<testsuites\{0,1\} [^>]*tests="[0-9]*"[^>]*' "$scratch/$1.xml" | head -n 1)
    count() { echo "$totals" | sed -n "s/.*[ ]$1=\"\([0-9]*\)\".*/\1/p"; }
    bad=$(($(count failures) + $(count errors)))
    skip=$(count skipped)
    [ -n "$skip" ] || skip=$(grep -c 'result="skipped"' "$scratch/$1.xml")
    ok=$(($(count tests) - bad - skip))
  fi
  if [ "$2" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
  printf '%-24s %4d passed, %d failed, %d skipped  (%d s)\n' "$1" "$ok" "$bad" "$skip" "$3"
  sed -n 's/^.*missing: /  skipped, missing: /p' "$scratch/$1.log" | sort -u
  if [ "$bad" -ne 0 ]; then
    echo "---- $1, exit status $2"
    tail -n 60 "$scratch/$1.log"
  fi
  passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
}
wanted() { case "$only" in "  " | *" $1 "*) ;; *) return 1 ;; esac }

for program in "$build"/test-bin/*; do
  name=$(basename "$program")
  [ -x "$program" ] && wanted "$name" || continue
  start=$(date +%s)
  "$program" --gtest_brief=1 --gtest_output="xml:$scratch/$name.xml" >"$scratch/$name.log" 2>&1
  tally "$name" $? $(($(date +%s) - start))
done
if [ -e "$build/python/interpreter" ] && wanted python; then
  start=$(date +%s)
  PYTHONPATH="$(cd "$build" && pwd)/python" "$(cat "$build/python/interpreter")" -m pytest -q -rs -p no:cacheprovider --junitxml="$scratch/python.xml" tests/python \
    >"$scratch/python.log" 2>&1
  tally python $? $(($(date +%s) - start))
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
