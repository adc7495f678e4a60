#!/usr/bin/env bash
# Prints one table from the results that `make accuracy` made: perplexity and size for every codec.
set -euo pipefail
folder=$1

# number KEY FILE: the first value of a key in a JSON file that has one key per line.
number() { sed -nE "s/^ *\"$1\": *\"?([0-9.]+)\"?,?\$/\1/p" "$2" | head -n 1; }

printf '%-6s  %-8s  %16s  %10s\n' codec rotation 'bits per weight*' perplexity
for result in f32 q8 split-off split w7 w8-off w8 w9 w10 a11; do
    case $result in
        f32 | q8) rotation=- ;;
        *-off) rotation=off ;;
        *) rotation=on ;;
    esac
    printf '%-6s  %-8s  %16.3f  %10.3f\n' "${result%-off}" "$rotation" \
        "$(number linear_bits "$folder/$result.summary")" "$(number perplexity "$folder/$result.ppl")"
done
echo '  One rotation, one rounding each: over group sizes, equal errors of the weights moved this model by up to 0.5 either way,'
echo '  so lines that lie closer than that are not ranked by it. The errors themselves are in each report.json.'
echo '* of the linear layers, scales included; embedding and head are q8, and f32 in the first line'
