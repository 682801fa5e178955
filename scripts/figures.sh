#!/usr/bin/env bash
# Draw every figure and table of the docs from the committed results.
set -euo pipefail
cd "$(dirname "$0")/.."

for file in results/*.json; do # of development versions: a comparison each
    name=$(basename "$file" .json)
    dm2 compare "$file" --out "docs/figures/$name.png" >"docs/figures/$name.txt"
    echo "docs/figures/$name.png and .txt"
done
for file in results/studies/*.json; do
    name=$(basename "$file" .json)
    seeds=$(python -c 'import json, sys
print(1 + max(run["info"]["config"]["seed"] for run in json.load(open(sys.argv[1]))["runs"]))' "$file")
    dm2 study draw "${name%_*}" --scale "${name##*_}" --seeds "$seeds" --results results/studies --out docs >"docs/figures/$name.txt"
    echo "docs/figures/$name.png and .txt"
done
python scripts/claims.py # the tables in docs/results.md
for run in "four-tile" "handshake" "stag-hunt --states-only"; do # shellcheck disable=SC2086
    name=${run%% *}
    dm2 theory converge --game $run --out "docs/figures/theory_${name/-/_}.png"
done
# 256 colours are enough, and take a third of the space.
python -c 'import sys
from PIL import Image
for path in sys.argv[1:]:
    Image.open(path).convert("RGB").quantize(256, dither=0).save(path, optimize=True)' docs/figures/*.png
