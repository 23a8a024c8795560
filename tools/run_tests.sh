#!/bin/sh
# Runs every test program of a build folder and ends with one line: how many tests passed, failed and were skipped.
# A program that crashes counts as one failed test more.
set -u
build=${1:?usage: run_tests.sh BUILD_DIR [PROGRAM ...]}
shift
only=" $* "
# Tests leave the user's plan cache alone.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export RAREFY_CACHE="$scratch/cache"

passed=0 failed=0 skipped=0
for program in "$build"/test-bin/*; do
  [ -x "$program" ] || continue
  name=$(basename "$program")
  case "$only" in "  " | *" $name "*) ;; *) continue ;; esac
  start=$(date +%s)
  "$program" --gtest_brief=1 --gtest_output="xml:$scratch/$name.xml" >"$scratch/$name.log" 2>&1
  status=$?
  seconds=$(($(date +%s) - start))
  ok=0 bad=0 skip=0
  if [ -s "$scratch/$name.xml" ]; then
    count() { sed -n "s/^<testsuites.*[ ]$1=\"\([0-9]*\)\".*/\1/p" "$scratch/$name.xml"; }
    bad=$(count failures)
    skip=$(grep -c 'result="skipped"' "$scratch/$name.xml")
    ok=$(($(count tests) - bad - skip))
  fi
  if [ $status -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
  printf '%-24s %4d passed, %d failed, %d skipped  (%d s)\n' "$name" "$ok" "$bad" "$skip" "$seconds"
  grep -h 'Skipped$\|SKIPPED' "$scratch/$name.log" >/dev/null && sed -n 's/^.*missing: /  skipped, missing: /p' "$scratch/$name.log" | sort -u
  if [ "$bad" -ne 0 ]; then
    echo "---- $name, exit status $status"
    tail -n 60 "$scratch/$name.log"
  fi
  passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
