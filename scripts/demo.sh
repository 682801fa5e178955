#!/usr/bin/env bash
# The main job, end to end: an expert team is trained and recorded; DM² trains on the recording
# beside IPPO; the two are compared.
set -euo pipefail
out=${1:-demo}
env=smax/3s_vs_4z
steps=350000
seeds=4

if [ -e "$out" ]; then
    echo "demo: $out exists; remove it first (rm -r $out)" >&2
    exit 2
fi
mkdir -p "$out"

echo "demo: training on $env; six to eight minutes on two cores"
dm2 train ippo --env "$env" --steps 500000 --seed 100 --out "$out/expert"
dm2 record "$out/expert" --episodes 300 --out "$out/team.safetensors"
dm2 train dm2 --env "$env" --steps "$steps" --seeds "$seeds" --demos "$out/team.safetensors" \
    --out "$out/runs/dm2"
dm2 train ippo --env "$env" --steps "$steps" --seeds "$seeds" --out "$out/runs/ippo"

dm2 compare "$out/runs" --out "$out/comparison.png" | tee "$out/table.txt"
dm2 watch "$out/runs/dm2/seed_0" --out "$out/battle.gif"
echo
echo "demo: done. Look at"
echo "  the figure  $out/comparison.png"
echo "  the replay  $out/battle.gif"
echo "  the table   $out/table.txt"
