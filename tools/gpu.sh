#!/bin/bash
# Everything that needs a GPU, in one call of at most eight minutes: build, test, sanitize, benchmark.
#
#   tools/gpu.sh [--rows] [folder with built programs]
#
# --rows measures alone, where the tests have passed: what an earlier call had no time for.
# Without a folder it builds what it runs in build/release, for which the machine needs the packages of
# tools/debian-packages.txt. Where they are not to be had, tools/gpu_programs.sh gathers programs and libraries on another
# machine. Rows go to bench/results/<device>/, or to $RESULTS/<device>/. Every step has a limit, and what is left of the eight minutes.
set -uo pipefail
cd "$(dirname "$0")/.."

die() { printf 'gpu.sh: %s\n' "$1" >&2; exit 1; }
step() { printf '\n== %s (%ds)\n' "$1" "$SECONDS"; }
# within SECONDS COMMAND…: stops it after so long, or when the time of all is up.
total=470
within() {
  local limit=$1 left=$((total - SECONDS))
  shift
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -lt 3 ]; then printf 'no time left for %s\n' "$(basename "$1")"; failed=1; return 1; fi
  timeout "$limit" "$@"
}
command -v nvidia-smi >/dev/null || die 'no nvidia-smi: this machine has no NVIDIA GPU, or no driver'

tests=yes
[ "${1:-}" = --rows ] && { tests=; shift; }
bin=${1:-}
if [ -z "$bin" ]; then
  bin=build/release
  step 'build'
  missing=$(tools/install_deps.sh missing 2>/dev/null)
  [ -z "$missing" ] || tools/install_deps.sh >/dev/null 2>&1 ||
    die "to build here these packages are missing and could not be installed: $missing (or run tools/gpu_programs.sh FOLDER elsewhere, then tools/gpu.sh FOLDER here)"
  [ -f $bin/build.ninja ] || cmake --preset release >/dev/null || die 'cmake failed'
  cmake --build $bin -j "$(nproc)" --target rarefy_cli rarefy_gpu_search_bench rarefy_gpu_block_bench \
    test_cuda_compile test_cuda_device test_cuda_spmm test_cuda_block_sparse test_cuda_decoder test_model || die 'the build failed'
  total=$((total + SECONDS))  # What a first build takes comes on top.
fi
[ -d "$bin/lib" ] && export LD_LIBRARY_PATH="$bin/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export RAREFY_SOURCE=$PWD  # Where tests find their data, wherever they were built.
program() {  # NAME: in the folder, or among its tests
  for path in "$bin/$1" "$bin/test-bin/$1"; do [ -x "$path" ] && { echo "$path"; return; }; done
}
for name in rarefy rarefy-gpu-search-bench rarefy-gpu-block-bench cuda_compile cuda_device cuda_spmm cuda_block_sparse cuda_decoder model; do
  [ -n "$(program $name)" ] || die "no $name in $bin"
done

device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr 'A-Z ' 'a-z-')
root=${RESULTS:-bench/results}
results=$root/$device
mkdir -p "$results"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

step 'what is there'
within 20 "$(program rarefy)" doctor | tee "$results/doctor.txt"

if [ -n "$tests" ]; then
  for test in cuda_compile cuda_device cuda_spmm cuda_block_sparse cuda_decoder model; do
    step "test $test"
    cases='--gtest_filter=-Kernels.*:*BlockEmulated*:*CompileForEvery*'  # What needs no GPU runs elsewhere, too.
    [ $test = model ] && cases='--gtest_filter=*Device*'
    within 100 "$(program $test)" --gtest_brief=1 $cases || failed=1
  done

  if command -v compute-sanitizer >/dev/null; then
    # One case of every kind: the tools slow kernels down a hundredfold.
    for tool in memcheck racecheck; do
      step "compute-sanitizer $tool"
      within 40 compute-sanitizer --tool $tool --error-exitcode 9 "$(program cuda_spmm)" \
        --gtest_brief=1 --gtest_filter='*OnDevice.ColumnsBeyondSixteenBits:*OnDevice.MixedDtypes*:*OnDevice.Chained*' \
        >"$results/sanitizer-$tool.txt" 2>&1 || failed=1
      grep 'SUMMARY' "$results/sanitizer-$tool.txt"
    done
  fi
fi

# ops TITLE SECONDS ARGUMENTS…: as many problems as begin within that time and were not measured by this version before, so
# that another call goes on where this one stopped.
started=$(date +%s)
ops() {
  local limit=$2
  step "operators: $1"
  shift 2
  [ "$limit" -lt $((total - SECONDS)) ] || limit=$((total - SECONDS))
  within $((limit + 30)) "$(program rarefy)" bench ops --device cuda --seconds 10 --within "$limit" --missing \
    --save "$root" -o json "$@" >"$scratch/rows.json" || failed=1
}
# What the search chose, over the best dense product and over cuSPARSE.
table() {
  awk -F, '
    NR == 1 { for (i = 1; i <= NF; ++i) at[$i] = i; next }
    $at["date"] < today { next }
    { p = sprintf("%12s n %-3s %-5s %-4s %-12.12s %-8s", $at["shape"], $at["n"], $at["sparsity"], $at["dtype"], $at["pattern"], $at["layout"]); us = $at["median_us"] }
    $at["method"] ~ /^cublas/ && (!(p in dense) || us < dense[p]) { dense[p] = us }
    $at["method"] ~ /^cusparse/ { sparse[p] = us }
    $at["chosen"] == "true" { best[p] = us; name[p] = $at["method"]; order[++n] = p }
    END { for (i = 1; i <= n; ++i) { p = order[i]
            printf "%s %-55s %8.2f us  dense %s  cuSPARSE %s\n", p, name[p], best[p], over(dense, p), over(sparse, p) } }
    function over(rival, p) { return p in rival ? sprintf("%5.2fx", rival[p] / best[p]) : "    -" }
  ' today="$(date -u -d "@$started" +%F)" "$results/ops.csv"
}
ops 'f16' 90 --dtype fp16 --shapes 28672x8192,14336x4096,4096x14336,4096x4096 --sparsity 0.7,0.5,0.9,0.8,0.99,0.6,0.95 --n 8,1,64,16
ops 'f32' 30 --dtype fp32 --shapes 28672x8192,14336x4096 --sparsity 0.99,0.95,0.9 --n 1,16,64
ops 'activations by features' 15 --dtype fp32 --layout features --shapes 28672x8192,14336x4096 --sparsity 0.99 --n 16,64
ops 'uneven patterns' 20 --dtype fp16 --pattern rowskew,blockskew,uniform --shapes 14336x4096 --sparsity 0.7,0.95 --n 1,16
dlmc=${RAREFY_SHARED:-../shared}/data/dlmc
if [ -d "$dlmc" ]; then
  ops 'DLMC' 30 --dtype fp32 --pattern "$(find "$dlmc" -name '*.smtx' | sort | paste -sd,)" --n 32,128
  table | awk '/\.smtx/ && $NF ~ /x$/ { sum += log(substr($NF, 1, length($NF) - 1)); ++n } END { if (n) printf "DLMC: %d problems, geometric mean over cuSPARSE %.2f\n", n, exp(sum / n) }'
fi
table

step 'the search against all kernels'
within 60 "$(program rarefy-gpu-search-bench)" >"$results/search.csv" || failed=1
awk -F, '!/^#/ && NR > 2 { printf "%6s x %-6s n %-4s %-6s %5.1f %% of the optimum, cold %5.1f s, warm %5.1f s  %s\n", $1, $2, $3, $4, 100 * $11, $15, $16, $9 }' \
  "$results/search.csv"

step 'block-sparse products'
within 45 "$(program rarefy-gpu-block-bench)" --top 2 --seconds 40 >"$results/block-sparse.csv" || failed=1
cat "$results/block-sparse.csv"

# Llama 2's 7 B with 70 % zeros, one sequence and eight, and 27 B with 99 %: the same weights kept dense and thin.
step 'whole model'
run_model() {  # NAME ARGUMENTS…
  name=$1
  shift
  within 60 "$(program rarefy)" bench --device cuda -r 3 -o json --save "$root" "$@" >"$scratch/$name.json" || failed=1
}
memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1)  # MiB
for format in '' '--format dense'; do
  for sequences in 1 8; do
    run_model 7b-70-${format:+dense-}s$sequences --random 7b --sparsity 0.7 $format -p 512 -n 128 -s $sequences
  done
  [ -n "$format" ] && [ "$memory" -lt 60000 ] && continue
  run_model 27b-99${format:+-dense} --random 27b --sparsity 0.99 $format -p 512 -n 64
done
(cd "$scratch" && grep -H '"avg_ts"' 7b-70-*.json 27b-*.json)

# Every kernel of every search space, as long as there is time.
step 'compile all kernels'
RAREFY_ALL_KERNELS=1 within 120 "$(program cuda_spmm)" --gtest_brief=1 --gtest_filter='Kernels.*' || echo 'not all kernels were compiled'

step "done: rows are in $results"
exit $failed
