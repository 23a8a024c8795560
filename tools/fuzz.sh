#!/bin/sh
# Fuzzes every parser with libFuzzer for SECONDS each (default 60), or only the named ones; needs Debian's clang and
# libclang-rt-14-dev. Inputs that reach new code are kept in build/fuzz/corpus; one that breaks something is named and kept.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -gt 0 ] && shift
[ -f build/fuzz/build.ninja ] || cmake --preset fuzz >/dev/null
cmake --build --preset fuzz -j "$(nproc)" >/dev/null
export ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
failed=0
for program in build/fuzz/fuzz/*; do
  name=$(basename "$program")
  case " ${*:-$name} " in *" $name "*) ;; *) continue ;; esac
  corpus=build/fuzz/corpus/$name
  RAREFY_FUZZ_CORPUS=$corpus "$program"
  if "$program" -max_total_time="$seconds" -rss_limit_mb=2048 -malloc_limit_mb=512 -timeout=30 -dict="$corpus/words.dict" \
    -artifact_prefix="$corpus/broke-" -print_final_stats=1 "$corpus/seeds" >"$corpus/log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$corpus/log")
    printf '%-16s %9s runs, %d inputs kept\n' "$name" "$runs" "$(ls "$corpus/seeds" | wc -l)"
  else
    failed=$((failed + 1))
    echo "---- $name"
    tail -n 60 "$corpus/log"
  fi
done
[ "$failed" -eq 0 ]
