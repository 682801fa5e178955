#!/usr/bin/env bash
# Make the runs behind the figures: `results.sh learning` (hours on two cores).
# Interrupted, run it again: finished runs are kept, stopped ones resumed.
set -euo pipefail
study=${1:?"usage: results.sh learning"}
work=${2:-runs/$study}
mkdir -p "$work"

train() { # run directory, arguments of dm2 train
    local out=$1
    shift
    if [ -e "$out/config.json" ]; then dm2 resume "$out"; else dm2 train "$@" --out "$out"; fi
}

expert() { # task, steps, middling step
    local task=$1 steps=$2 middling=$3
    train "$work/experts/$task" ippo --env "smax/$task" --seed 100 --steps "$steps" \
        --checkpoint-steps "$middling"
    dm2 record "$work/experts/$task" --at "$steps" --out "$work/${task}_expert.safetensors"
    dm2 record "$work/experts/$task" --at "$middling" --out "$work/${task}_middling.safetensors"
}

learning() { # Five seeds of IPPO and DM², experts of a sixth; DM² also from a middling team.
    expert 3s_vs_3z 1000000 400000
    expert 3s_vs_4z 2000000 800000
    for seed in 0 1 2 3 4; do
        for task in 3s_vs_3z:600000 3s_vs_4z:1150000; do
            local name=${task%:*} steps=${task#*:}
            local common=(--env "smax/$name" --seed "$seed")
            train "$work/$name/ippo/seed_$seed" ippo "${common[@]}" --steps "$steps"
            train "$work/$name/dm2/seed_$seed" dm2 "${common[@]}" --steps "$steps" \
                --demos "$work/${name}_expert.safetensors"
        done
        train "$work/3s_vs_4z/dm2_middling/seed_$seed" dm2 --env smax/3s_vs_4z --seed "$seed" \
            --steps 750000 --demos "$work/3s_vs_4z_middling.safetensors"
    done
}

"$study"
