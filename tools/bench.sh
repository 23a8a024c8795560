#!/bin/sh
# Times operators on the layer shapes that the README talks about and a whole 1-B model; rows go to bench/results/<device>/.
# About twenty minutes on two cores; nothing else should run meanwhile.
set -eu
rarefy=${1:-build/release/rarefy}
ops() { "$rarefy" bench ops --save "$@"; }
# Decode: weights from memory, one token.
ops --shape 4096x14336 --n 1 --dtype bf16 --sparsity 0.1,0.2,0.5,0.6,0.7,0.8,0.9,0.95,0.99
ops --shape 4096x14336 --n 1 --dtype fp32 --sparsity 0.7,0.8,0.9,0.95
# Small batches.
ops --shape 4096x14336 --n 16 --dtype bf16 --sparsity 0.5,0.7,0.8,0.9
# Prefill: blocks and f32.
ops --shape 4096x4096 --n 128 --dtype bf16 --pattern 16x32 --sparsity 0.5,0.7,0.8,0.9
ops --shape 4096x4096 --n 128 --dtype bf16 --sparsity 0.5,0.7,0.9
ops --shape 4096x4096 --n 128 --dtype fp32 --sparsity 0.5,0.7,0.8,0.9
# Uneven masks.
ops --shape 4096x14336 --n 1,16 --dtype bf16 --pattern blockskew --sparsity 0.7,0.9
ops --shape 4096x14336 --n 1,16 --dtype bf16 --pattern rowskew --sparsity 0.7,0.9
"$rarefy" bench --random 1b --sparsity 0,0.5,0.7,0.9 -p 128 -n 32 -r 3 --save
