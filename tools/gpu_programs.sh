#!/bin/bash
# Gathers what tools/gpu.sh runs into a folder that can be carried to a GPU machine without development packages: programs,
# and the libraries that such a machine may lack.
#
#   tools/gpu_programs.sh FOLDER [build folder]
set -euo pipefail
cd "$(dirname "$0")/.."
to=${1:?usage: tools/gpu_programs.sh FOLDER [build folder]}
build=${2:-build/release}
targets='rarefy_cli rarefy_gpu_search_bench rarefy_gpu_block_bench test_cuda_compile test_cuda_device test_cuda_spmm test_cuda_block_sparse test_cuda_decoder test_model'
[ -f "$build/build.ninja" ] || cmake --preset release >/dev/null
cmake --build "$build" -j "$(nproc)" --target $targets
mkdir -p "$to/lib"
for program in rarefy rarefy-gpu-search-bench rarefy-gpu-block-bench test-bin/cuda_compile test-bin/cuda_device test-bin/cuda_spmm test-bin/cuda_block_sparse test-bin/cuda_decoder test-bin/model; do
  strip -o "$to/$(basename "$program")" "$build/$program"
  # All but the C and C++ runtime.
  ldd "$build/$program" | awk '$3 ~ /^\// { print $3 }' | grep -vE '/(libc|libm|libgcc_s|libstdc\+\+|libdl|libpthread|librt)\.so' |
    while read -r library; do cp -Lu "$library" "$to/lib/"; done
done
du -sh "$to"
