#!/usr/bin/env bash
# Shows what `make demo` made: sizes, some text with its speed, and the perplexity of the 3.5-bit and the f32 weights.
set -euo pipefail
folder=$1 q35=$2

# number KEY FILE: the first value of a key in a JSON file that has one key per line.
number() { sed -nE "s/^ *\"$1\": *\"?([0-9.]+)\"?,?\$/\1/p" "$2" | head -n 1; }
mebibytes() { awk -v bytes="$(number "$1" "$2")" 'BEGIN { printf "%.2f MiB", bytes / 1048576 }'; }
rounded() { printf '%.3f' "$(number "$1" "$2")"; }

summary=$folder/auto.summary
echo "in f32              $(mebibytes f32_bytes "$summary")"
echo "packed              $(mebibytes packed_bytes "$summary"), scales, embedding and head included"
echo "linear layers       $(rounded linear_bits "$summary") bits per weight with scales"
echo "everything          $(rounded effective_bits "$summary") bits per weight: this model's embedding, in 8 bits, is a large part of it"
echo
echo "\"Ownership is\" continued by the 3.5-bit model:"
echo
"$q35" run "$folder/auto.q35" --prompt 'Ownership is' -n 60 --temperature 0.7 --top-p 0.9 --seed 2
echo
printf 'perplexity on the first 24 kB of the test text: %.2f with 3.5-bit weights, %.2f in f32\n' \
    "$(number perplexity "$folder/auto.sample-ppl")" "$(number perplexity "$folder/f32.sample-ppl")"
