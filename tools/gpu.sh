#!/bin/bash
# Everything that needs a GPU, in one call of a few minutes: build, test, sanitize, benchmark.
#
#   tools/gpu.sh [folder with built programs]
#
# Without a folder it builds what it runs in build/release. Rows go to bench/results/<device>/, or to
# $RESULTS. Steps have limits of their own, so that the whole stays within eight minutes.
set -uo pipefail
cd "$(dirname "$0")/.."

die() { printf 'gpu.sh: %s\n' "$1" >&2; exit 1; }
step() { printf '\n== %s (%ds)\n' "$1" "$SECONDS"; }
command -v nvidia-smi >/dev/null || die 'no nvidia-smi: this machine has no NVIDIA GPU, or no driver'

bin=${1:-}
if [ -z "$bin" ]; then
  bin=build/release
  step 'build'
  [ -f $bin/build.ninja ] || cmake --preset release >/dev/null || die 'cmake failed'
  cmake --build $bin -j "$(nproc)" --target rarefy_cli rarefy_gpu_bench test_cuda_compile test_cuda_device \
    test_cuda_spmm test_cuda_decoder test_model || die 'the build failed'
fi
find_program() {  # NAME: in the folder, or among its tests
  for path in "$bin/$1" "$bin/test-bin/$1"; do [ -x "$path" ] && { echo "$path"; return; }; done
}

device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr 'A-Z ' 'a-z-')
results=${RESULTS:-bench/results/$device}
mkdir -p "$results"
failed=0

step 'what is there'
rarefy=$(find_program rarefy)
[ -n "$rarefy" ] && "$rarefy" doctor | tee "$results/doctor.txt"

for test in cuda_compile cuda_device cuda_spmm cuda_decoder model; do
  step "test $test"
  program=$(find_program $test) || die "no $test in $bin"
  # Every kernel of every search space where there are the cores for it.
  [ "$(nproc)" -ge 8 ] && export RAREFY_ALL_KERNELS=1
  [ $test = model ] && cases='--gtest_filter=*Device*' || cases=
  timeout 150 "$program" --gtest_brief=1 $cases || failed=1
done

if command -v compute-sanitizer >/dev/null; then
  # One case of every kind: the tools slow kernels down a hundredfold.
  for tool in memcheck racecheck; do
    step "compute-sanitizer $tool"
    timeout 60 compute-sanitizer --tool $tool --error-exitcode 9 "$(find_program cuda_spmm)" \
      --gtest_brief=1 --gtest_filter='*OnDevice.ColumnsBeyondSixteenBits:*OnDevice.MixedDtypes*:*OnDevice.Chained*' \
      >"$results/sanitizer-$tool.txt" 2>&1 || failed=1
    grep 'SUMMARY' "$results/sanitizer-$tool.txt"
  done
fi

step 'benchmark'
bench=$(find_program rarefy-gpu-bench) || die "no rarefy-gpu-bench in $bin"
run_bench() {  # NAME ARGUMENTS…
  name=$1
  shift
  timeout "$limit" "$bench" "$@" >"$results/$name.csv" || failed=1
  # kernel, µs, over dense, over cuSPARSE
  awk -F, '!/^#/ { printf "%6s x %-6s n %-4s %-6s %-60s %8s %8s %8s %s\n", $1, $2, $3, $4, $7, $8, $15, $18, $20 }' \
    "$results/$name.csv"
}
limit=150 run_bench spmm-f16 --dtype f16
limit=60 run_bench spmm-f32 --dtype f32 --shapes 14336x4096,28672x8192 --sparsity 0.9,0.99 --n 1,16,64

# Llama 2's 7 B with 70 % zeros, one sequence and eight, and 27 B with 99 %: the same weights kept dense and thin.
step 'whole model'
run_model() {  # NAME ARGUMENTS…
  name=$1
  shift
  timeout 120 "$rarefy" bench --device cuda -r 3 -o json --save "$(dirname "$results")" "$@" >"$results/$name.json" || failed=1
}
memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1)  # MiB
for format in '' '--format dense'; do
  for sequences in 1 8; do
    run_model 7b-70-${format:+dense-}s$sequences --random 7b --sparsity 0.7 $format -p 512 -n 128 -s $sequences
  done
  [ -n "$format" ] && [ "$memory" -lt 60000 ] && continue
  run_model 27b-99${format:+-dense} --random 27b --sparsity 0.99 $format -p 512 -n 64
done
grep -H '"avg_ts"' "$results"/7b-70-*.json "$results"/27b-*.json

step "done: rows are in $results"
grep -l WRONG "$results"/*.csv && failed=1
exit $failed
