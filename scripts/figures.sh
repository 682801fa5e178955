#!/usr/bin/env bash
# Draw every figure and table of the docs from the committed metrics.
set -euo pipefail
cd "$(dirname "$0")/.."
for study in results/*/; do
    name=$(basename "$study")
    dm2 compare "$study" --out "docs/figures/$name.png" >"docs/figures/$name.txt"
    echo "docs/figures/$name.png and .txt"
done
