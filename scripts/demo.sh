#!/usr/bin/env bash
# The main job, end to end: an expert team is trained and recorded; DM² trains on the recording
# beside IPPO; the two are compared. Two lanes, one for each of two cores.
set -euo pipefail
out=${1:-demo}
env=smax/3s_vs_4z
steps=450000
seeds=3

if [ -e "$out" ]; then
    echo "demo: $out exists; remove it first (rm -r $out)" >&2
    exit 2
fi
mkdir -p "$out"

imitate() {
    dm2 train ippo --env "$env" --steps 800000 --seed 100 --out "$out/expert"
    dm2 record "$out/expert" --episodes 300 --out "$out/team.safetensors"
    dm2 train dm2 --env "$env" --demos "$out/team.safetensors" --steps "$steps" \
        --seeds "$seeds" --out "$out/runs/dm2"
}

echo "demo: training on $env; about five minutes on two cores"
dm2 train ippo --env "$env" --steps "$steps" --seeds "$seeds" --out "$out/runs/ippo" &
ippo=$!
trap 'kill "$ippo" 2>/dev/null || true' EXIT
imitate
wait "$ippo"
trap - EXIT

dm2 compare "$out/runs" --out "$out/comparison.png" | tee "$out/table.txt"
dm2 watch "$out/runs/dm2/seed_0" --out "$out/battle.gif"
echo
echo "demo: done. Look at"
echo "  the figure  $out/comparison.png"
echo "  the replay  $out/battle.gif"
echo "  the table   $out/table.txt"
