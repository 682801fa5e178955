#!/usr/bin/env bash
# Draw every figure and table of the docs from the committed metrics.
set -euo pipefail
cd "$(dirname "$0")/.."

draw() { # name, runs
    local name=$1
    shift
    dm2 compare "$@" --out "docs/figures/$name.png" >"docs/figures/$name.txt"
    echo "docs/figures/$name.png and .txt"
}

draw learning results/learning/*/{ippo,dm2} results/learning/3s_vs_4z/dm2_middling \
    --labels IPPO IPPO DM² DM² "DM², teachers at 65 %"
for form in logit softplus log; do
    draw "study_$form" results/study/*/*/{ippo,"$form"_{none,centred,absorbing}_0.05}
done
draw learning_rate results/learning_rate/*/{ippo,dm2} --labels IPPO IPPO DM² DM²
draw smac results/smac/*/{ippo,dm2}
draw study_coefficient results/study/*/safe/{ippo,softplus_centred_*}
draw methods results/methods/*/*
draw coefficient results/coefficient/*/{ippo,reward,advantage}
for run in "four-tile" "handshake" "stag-hunt --states-only"; do # shellcheck disable=SC2086
    name=${run%% *}
    dm2 theory converge --game $run --out "docs/figures/theory_${name/-/_}.png"
done
