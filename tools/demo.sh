#!/bin/sh
# The demo: thin a real model, see what it costs in quality; thin a big one, see what it wins in speed; all in one page.
# Every step is a command that works on your own model, and is printed before it runs.
set -eu
cd "$(dirname "$0")/.."
rarefy=${1:-build/release/rarefy}
out=${DEMO_OUT:-demo-out}
model=examples/models/tiny-lm
calibration=examples/text/calibration.txt
heldout=examples/text/heldout.txt
prompt='The old man looked at the sea and'
mkdir -p "$out"

if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m'); else bold= dim= plain=; fi
title() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
# What is shown can be pasted: arguments with spaces are in quotes, and files that a command fills are named.
show() {
  printf '%s$' "$dim"
  for word in "$@"; do
    case $word in *[!A-Za-z0-9_./,:=\>-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
  done
  printf '%s\n' "$plain"
} >&2
run() { show "$@"; "$@"; }
run_into() { file=$1; shift; show "$@" '>' "$file"; "$@" >"$file"; }

title '1. This machine'
run "$rarefy" doctor

title '2. Thin a trained model: half of every weight goes, chosen in three ways'
run "$rarefy" prune -m "$model" -o "$out/magnitude-50" --method magnitude --sparsity 0.5 --overwrite
run "$rarefy" prune -m "$model" -o "$out/wanda-50" --method wanda --sparsity 0.5 --calibration "$calibration" -c 256 --overwrite
run "$rarefy" prune -m "$model" -o "$out/sparsegpt-50" --method sparsegpt --sparsity 0.5 --calibration "$calibration" -c 256 --overwrite

title '3. Find the best kernel for every weight on this machine'
run "$rarefy" tune -m "$out/sparsegpt-50" | head -n 16
printf '%s  … and so on for every layer; %s explain says why%s\n' "$dim" "$rarefy" "$plain"

title '4. What it writes: dense, then thin'
run "$rarefy" generate -m "$model" -p "$prompt" -n 40
run "$rarefy" generate -m "$out/sparsegpt-50" -p "$prompt" -n 40

title '5. What it wins where speed matters: layers and the whole of a Llama with 1 billion parameters (random weights)'
run_into "$out/ops.json" "$rarefy" bench ops --shapes 2048x2048,8192x2048,2048x8192 --n 1 --sparsity 0.5,0.7,0.9 --dtype bf16 --repetitions 7 --rotate-mb 256 --json
run_into "$out/bench.json" "$rarefy" bench --random 1b --sparsity 0,0.5,0.7,0.9 -p 0 -n 16 -r 2 --json

title '6. What it won, and what it cost'
run "$rarefy" report -m "$model" -m "$out/magnitude-50" -m "$out/wanda-50" -m "$out/sparsegpt-50" \
  -f "$heldout" -c 256 --windows 120 -p "$prompt" --ops "$out/ops.json" --bench "$out/bench.json" -o "$out/report.html"

cat <<END

The whole story with pictures: ${bold}$out/report.html${plain}

Three commands to try next, on a model of your own (a Llama, Mistral, Qwen2 or Qwen3 folder from Hugging Face):
  $rarefy prune -m MY-MODEL -o MY-MODEL-thin --method sparsegpt --sparsity 0.6 --calibration SOME-TEXT.txt
  $rarefy bench -m MY-MODEL-thin -p 512 -n 128
  $rarefy generate -m MY-MODEL-thin -p "Once upon a time" -n 200 --temp 0.8 --top-p 0.95
END
