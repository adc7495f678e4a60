#!/usr/bin/env bash
# Prints one table from the results that `make accuracy` made: perplexity and size for every codec.
set -euo pipefail
folder=$1

# number KEY FILE: the first value of a key in a JSON file that has one key per line.
number() { sed -nE "s/^ *\"$1\": *\"?([0-9.]+)\"?,?\$/\1/p" "$2" | head -n 1; }

printf '%-12s  %12s  %10s\n' codec 'bits/weight' perplexity
for result in f32 q8 split w7 w8 w9 w10 split-on split-off w8-on w8-off; do
    name=$result
    [[ $result == *-on ]] && name="${result%-on}, rotated"
    [[ $result == *-off ]] && name="${result%-off}, not"
    printf '%-12s  %12.3f  %10.3f\n' "$name" \
        "$(number linear_bits "$folder/$result.summary")" "$(number perplexity "$folder/$result.ppl")"
done
