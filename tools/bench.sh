#!/bin/sh
# Times operators on the layer shapes that the README talks about, and a whole 1-B model; rows go to bench/results/<device>/.
# About five minutes on two cores; nothing else should run meanwhile.
set -eu
rarefy=${1:-build/release/rarefy}
# Plans made today: one from the cache may be of a noisier hour.
XDG_CACHE_HOME=$(mktemp -d "${TMPDIR:-/tmp}/rarefy-bench-XXXXXX")
export XDG_CACHE_HOME
trap 'rm -rf "$XDG_CACHE_HOME"' EXIT
ops() { "$rarefy" bench ops --device cpu --repetitions 9 --seconds 8 --save "$@"; }
# Decode, weights from memory: one token.
ops --shape 4096x14336 --n 1 --dtype bf16 --sparsity 0.2,0.5,0.6,0.7,0.8,0.9,0.95
ops --shape 4096x14336 --n 1 --dtype fp32 --sparsity 0.8,0.9,0.95
# A small batch.
ops --shape 4096x14336 --n 16 --dtype bf16 --sparsity 0.5,0.7,0.8
# Many tokens: blocks, f32, and unstructured bf16, where little can be won.
ops --shape 4096x14336 --n 128 --dtype bf16 --pattern 16x32 --sparsity 0.5,0.7,0.8,0.9
ops --shape 4096x4096 --n 128 --dtype fp32 --sparsity 0.5,0.7,0.8,0.9
ops --shape 4096x14336 --n 128 --dtype bf16 --sparsity 0.5,0.7,0.9
# Uneven masks.
ops --shape 4096x14336 --n 1 --dtype bf16 --pattern blockskew,rowskew --sparsity 0.7
# A whole model, dense and thin, and dense through oneDNN.
"$rarefy" bench --random 1b --sparsity 0,0.5,0.7,0.9 -p 128 -n 32 -r 5 --save
"$rarefy" bench --random 1b --sparsity 0 -p 128 -n 32 -r 5 --activations bf16 --kernel dense.onednn --save
