#!/bin/sh
# Masks that pruning makes, many tokens, bf16 and f32, beside oneDNN and our best dense kernel in the same run: uniform, blocks of 30-99 %
# zeros, skewed rows; and where $RAREFY_SHARED (../shared) has them, matrices of DLMC and masks of small-lm, pruned here: magnitudes under
# one threshold for all weights, Wanda and SparseGPT (whose scores are of one weight) under one for all rows of each. Rows go to bench/results/<device>/hybrid.csv. Six minutes on two cores; nothing else should run meanwhile.
#
#     bench/hybrid.sh [RAREFY [PART ...]]      PART: uniform, blocks, rows, f32, dlmc, masks (default: all)
set -eu
rarefy=${1:-build/release/rarefy}
[ $# -gt 0 ] && shift
parts=${*:-uniform blocks rows f32 dlmc masks}
here=$(cd "$(dirname "$0")/.." && pwd)
shared=${RAREFY_SHARED:-$here/../shared}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/rarefy-bench-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
# Plans made today, and the rows of before, which new ones replace.
export XDG_CACHE_HOME="$scratch/cache"
for old in "$here"/bench/results/*/hybrid.csv; do
  [ -f "$old" ] || continue
  mkdir -p "$scratch/rows/$(basename "$(dirname "$old")")"
  cp "$old" "$scratch/rows/$(basename "$(dirname "$old")")/ops.csv"
done

# Every dense kernel and the planner's choice, and decoded bitmaps; calls of a tenth of a millisecond need more rounds.
rounds=9
ops() { "$rarefy" bench ops --device cpu --repetitions "$rounds" --seconds 4 --only bitmap.amx.panels --save "$scratch/rows" --output csv "$@" >/dev/null; }
large() { ops --shape 4096x14336 --dtype bf16 --n 128,512 "$@"; }
small() { rounds=31; for file in "$@"; do ops --dtype bf16 --n 128,512 --pattern "$file"; ops --dtype fp32 --n 128 --pattern "$file"; done; rounds=9; }

for part in $parts; do
  case $part in
    uniform) large --pattern uniform --sparsity 0.5,0.6,0.7,0.8,0.9 ;;
    blocks) large --pattern blockskew --sparsity 0.5,0.6,0.7,0.8,0.9 ;;
    rows) large --pattern rowskew --sparsity 0.6,0.7,0.8,0.9 ;;
    f32) ops --shape 4096x4096 --dtype fp32 --n 128 --pattern uniform,blockskew --sparsity 0.6,0.7,0.8,0.9 ;;
    dlmc)
      [ -d "$shared/data/dlmc" ] || { echo "no $shared/data/dlmc: left out"; continue; }
      # One matrix of each method and size: 512x2048 and 512x512 of a transformer, 256x2304 of a ResNet.
      small "$shared"/data/dlmc/transformer/magnitude_pruning/0.[89]*/body_encoder_layer_2_ffn_conv2_fully_connected.smtx \
        "$shared"/data/dlmc/transformer/l0_regularization/0.95/*.smtx "$shared"/data/dlmc/transformer/magnitude_pruning/0.7/*.smtx \
        "$shared"/data/dlmc/rn50/magnitude_pruning/0.8/*.smtx
      ;;
    masks)
      [ -d "$shared/models/small-lm" ] || { echo "no $shared/models/small-lm: left out"; continue; }
      for method in "magnitude --scope global" "wanda --scope tensor" "sparsegpt --scope tensor"; do
        for sparsity in 0.6 0.8; do
          # shellcheck disable=SC2086  # A method and its scope.
          "$rarefy" prune -m "$shared/models/small-lm" -o "$scratch/thin" --method $method --sparsity $sparsity \
            --calibration "$here/examples/text/calibration.txt" --samples 16 -c 256 --storage dense --overwrite >/dev/null
          python3 "$here/bench/model_masks.py" "$scratch/thin" "$scratch" "small-lm-${method%% *}-$sparsity" layers.4.mlp.down_proj
        done
      done
      small "$scratch"/small-lm-*.smtx
      ;;
    *) echo "unknown part: $part" >&2; exit 2 ;;
  esac
done
for rows in "$scratch"/rows/*/ops.csv; do
  folder="$here/bench/results/$(basename "$(dirname "$rows")")"
  mkdir -p "$folder"
  cp "$rows" "$folder/hybrid.csv"
done
