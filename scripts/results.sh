#!/usr/bin/env bash
# Make the runs behind the figures: `results.sh study`, `learning`, `updates` and `smac`. Start it
# once for each core: the processes share the runs out among themselves. Interrupted, start it
# again: finished runs are kept, stopped ones go on. `results.sh collect` then copies the metrics
# to results/, of the study the evaluations only.
set -euo pipefail
what=${1:?"usage: results.sh study|learning|updates|smac|collect [directory]"}
results=$(dirname "$(realpath "$0")")/../results
work=${2:-runs/results}
mkdir -p "$work"
cd "$work" # so that config.json names the demonstrations the same way everywhere

train() { # directory, arguments of dm2 train
    local out=$1
    shift
    mkdir -p "$out"
    # A run that another process has is passed over.
    { flock --nonblock 9 || return 0; dm2 train "$@" --out "$out"; } 9>"$out/.lane"
}

expert() { # task, steps, rules: an expert team of seed 100, and its demonstrations
    local task=$1 steps=$2 env=${3:-smax/$1} out=experts/$1
    mkdir -p "$out"
    {
        flock 9 # the other processes wait here
        dm2 train ippo --env "$env" --seed 100 --seeds 1 --steps "$steps" --out "$out" \
            --checkpoint-steps {200..800..25}000
        [ -e "${task}_expert.safetensors" ] ||
            dm2 record "$out/seed_100" --out "${task}_expert.safetensors"
    } 9>"$out/.lane"
}

middling() { # task: demonstrations of the first checkpoint that wins 45 % of the battles it samples
    local task=$1 run=experts/$1/seed_100
    {
        flock 9
        [ ! -e "${task}_middling.safetensors" ] || return 0
        for at in "$run"/checkpoints/*; do
            at=$((10#$(basename "$at")))
            if dm2 evaluate "$run" --at "$at" --stochastic --episodes 512 |
                awk '$1 == "win_rate" { exit !($2 >= 0.45) }'; then
                dm2 record "$run" --at "$at" --out "${task}_middling.safetensors"
                return
            fi
        done
    } 9>"experts/$task/.lane"
}

cell() { # task, walls, steps, form, survival, coefficient: three seeds of DM² for the study
    local env=smax/$1
    [ "$2" = safe ] || env+="?walls=$2"
    train "study/$1/$2/$4_$5_$6" dm2 --env "$env" --seed 200 --seeds 3 --steps "$3" \
        --num-envs 128 --imitation.updates 32 \
        --demos "$1_expert.safetensors" --imitation.reward "$4" --imitation.survival "$5" \
        --imitation.coefficient "$6"
}

study() { # Reward form × treatment of death × walls, then the coefficient of the best.
    local tasks=(3s_vs_3z:350000 3s_vs_4z:500000) task steps walls form survival coefficient
    expert 3s_vs_3z 500000
    expert 3s_vs_4z 1000000
    for walls in safe lethal; do
        for task in "${tasks[@]}"; do
            steps=${task#*:} task=${task%:*}
            train "study/$task/$walls/ippo" ippo --seed 200 --seeds 3 --steps "$steps" \
                --num-envs 128 --env "smax/$task$([ $walls = safe ] || echo "?walls=$walls")"
            for form in logit softplus log; do
                for survival in centred none absorbing; do
                    cell "$task" "$walls" "$steps" "$form" "$survival" 0.05
                done
            done
        done
    done
    for coefficient in 0.02 0.1; do
        for task in "${tasks[@]}"; do
            cell "${task%:*}" safe "${task#*:}" softplus centred "$coefficient"
        done
    done
}

learning() { # Five seeds of IPPO and DM², experts of a sixth; DM² also from a middling team.
    local task steps every
    expert 3s_vs_3z 500000
    expert 3s_vs_4z 1000000
    middling 3s_vs_4z
    for task in 3s_vs_4z:800000:50000 3s_vs_3z:350000:20000; do
        IFS=: read -r task steps every <<<"$task"
        train "learning/$task/ippo" ippo --env "smax/$task" --seeds 5 --steps "$steps" \
            --eval-every "$every"
        train "learning/$task/dm2" dm2 --env "smax/$task" --seeds 5 --steps "$steps" \
            --eval-every "$every" --demos "${task}_expert.safetensors"
    done
    train learning/3s_vs_4z/dm2_middling dm2 --env smax/3s_vs_4z --seeds 5 --steps 800000 \
        --demos 3s_vs_4z_middling.safetensors
}

updates() { # The same with four times as many updates of the discriminator.
    local task steps every
    expert 3s_vs_3z 500000
    expert 3s_vs_4z 1000000
    for task in 3s_vs_4z:800000:50000 3s_vs_3z:350000:20000; do
        IFS=: read -r task steps every <<<"$task"
        train "updates/$task/dm2" dm2 --env "smax/$task" --seeds 5 --steps "$steps" \
            --eval-every "$every" --demos "${task}_expert.safetensors" --imitation.updates 32
    done
}

smac() { # Two seeds of IPPO and DM² by SMAC's rules, with the paper's coefficients.
    local task steps coefficient source env
    for task in 3s_vs_3z:800000:0.3:expert 3s_vs_4z:1000000:0.05:kite 5m_vs_6m:1200000:0.3:expert; do
        IFS=: read -r task steps coefficient source <<<"$task"
        env="smac/$task?reward=signed"
        train "smac/$task/ippo" ippo --env "$env" --seeds 2 --steps "$steps"
        if [ "$source" = expert ]; then
            expert "smac_$task" "$steps" "$env"
        else # no IPPO team wins in this budget; the script that kites does
            mkdir -p "experts/smac_$task"
            {
                flock 9
                [ -e "smac_${task}_$source.safetensors" ] ||
                    python "$results/../benchmarks/scripted.py" record "$source" "$env" \
                        "smac_${task}_$source.safetensors"
            } 9>"experts/smac_$task/.lane"
        fi
        train "smac/$task/dm2" dm2 --env "$env" --seeds 2 --steps "$steps" \
            --demos "smac_${task}_$source.safetensors" --imitation.coefficient "$coefficient"
    done
}

collect() {
    local run
    for run in {study,learning,updates,smac}/*/*/seed_* study/*/*/*/seed_*; do
        [ -e "$run/metrics.jsonl" ] || continue
        mkdir -p "$results/$run"
        cp "$run/config.json" "$results/$run/"
        if [[ $run = study/* ]]; then
            grep '"kind": "eval"' "$run/metrics.jsonl" >"$results/$run/metrics.jsonl"
        else
            cp "$run/metrics.jsonl" "$results/$run/"
        fi
    done
}

"$what"
