#!/usr/bin/env bash
# Shows what `make demo` made: the summary of the compile, some text, and the perplexity of the 3.5-bit and the f32 weights.
set -euo pipefail
folder=$1 q35=$2
number() { sed -nE "s/^ *\"$1\": *\"?([0-9.]+)\"?,?\$/\1/p" "$2" | head -n 1; }

cat "$folder/w8.txt"
echo
echo "The model continues 'Ownership is':"
echo
"$q35" run "$folder/w8.q35" --prompt 'Ownership is' -n 60 --seed 1
echo
printf 'perplexity on the first 24 kB of the test text: %.2f with 3.5-bit weights, %.2f in f32\n' \
    "$(number perplexity "$folder/w8.sample-ppl")" "$(number perplexity "$folder/f32.sample-ppl")"
