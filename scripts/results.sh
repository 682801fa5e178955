#!/usr/bin/env bash
# Make the runs behind the figures: `results.sh study`, `learning`, `learning_rate`, `smac`,
# `methods` and `coefficient`.
# Interrupted, start it again: finished runs are kept, stopped ones go on. `results.sh collect`
# then copies the metrics to results/, of the study the evaluations only.
set -euo pipefail
what=${1:?"usage: results.sh study|learning|learning_rate|smac|methods|coefficient|collect [directory]"}
results=$(dirname "$(realpath "$0")")/../results
work=${2:-runs/results}
mkdir -p "$work"
cd "$work" # so that config.json names the demonstrations the same way everywhere

expert() { # task, steps, environment, more settings: a team of seed 100 and its demonstrations
    local task=$1 steps=$2 env=${3:-smax/$1}
    dm2 train ippo --env "$env" --seed 100 --seeds 1 --steps "$steps" --out "experts/$task" \
        --checkpoint-steps {100..800..25}000 "${@:4}"
    [ -e "${task}_expert.safetensors" ] ||
        dm2 record "experts/$task/seed_100" --out "${task}_expert.safetensors"
}

middling() { # task: demonstrations of the first checkpoint that wins 45 % of the battles it samples
    local task=$1 run=experts/$1/seed_100 at
    [ ! -e "${task}_middling.safetensors" ] || return 0
    for at in "$run"/checkpoints/*; do
        at=$((10#$(basename "$at")))
        if dm2 evaluate "$run" --at "$at" --stochastic --episodes 512 |
            awk '$1 == "win_rate" { exit !($2 >= 0.45) }'; then
            dm2 record "$run" --at "$at" --out "${task}_middling.safetensors"
            return
        fi
    done
}

cell() { # task, walls, steps, form, survival, coefficient: three seeds of DM² for the study
    local env=smax/$1
    [ "$2" = safe ] || env+="?walls=$2"
    dm2 train dm2 --env "$env" --seed 200 --seeds 3 --steps "$3" --out "study/$1/$2/$4_$5_$6" \
        --num-envs 128 --ppo.learning-rate 5e-4 --imitation.updates 32 \
        --demos "$1_expert.safetensors" --imitation.reward "$4" --imitation.survival "$5" \
        --imitation.coefficient "$6" --imitation.unit reward
}

study() { # Reward form × treatment of death × walls, then the coefficient of the best.
    local tasks=(3s_vs_3z:350000 3s_vs_4z:500000) task steps walls form survival coefficient
    expert 3s_vs_3z 500000
    expert 3s_vs_4z 1000000
    for walls in safe lethal; do
        for task in "${tasks[@]}"; do
            steps=${task#*:} task=${task%:*}
            dm2 train ippo --seed 200 --seeds 3 --steps "$steps" --out "study/$task/$walls/ippo" \
                --num-envs 128 --ppo.learning-rate 5e-4 \
                --env "smax/$task$([ $walls = safe ] || echo "?walls=$walls")"
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

both() { # directory, learning rate: five seeds of IPPO and DM² on two tasks, experts of a sixth
    local task steps every
    expert 3s_vs_3z 500000
    expert 3s_vs_4z 1000000
    for task in 3s_vs_4z:600000:20000 3s_vs_3z:300000:10000; do
        IFS=: read -r task steps every <<<"$task"
        dm2 train ippo --env "smax/$task" --seeds 5 --steps "$steps" --out "$1/$task/ippo" \
            --ppo.learning-rate "$2" --eval-every "$every"
        dm2 train dm2 --env "smax/$task" --seeds 5 --steps "$steps" --out "$1/$task/dm2" \
            --ppo.learning-rate "$2" --eval-every "$every" --demos "${task}_expert.safetensors" \
            --imitation.coefficient 0.05 --imitation.unit reward
    done
}

learning() { # The comparison, and DM² from a middling team.
    both learning 1e-3
    middling 3s_vs_4z
    dm2 train dm2 --env smax/3s_vs_4z --seeds 5 --steps 600000 --eval-every 20000 \
        --demos 3s_vs_4z_middling.safetensors --out learning/3s_vs_4z/dm2_middling \
        --imitation.coefficient 0.05 --imitation.unit reward
}

learning_rate() { # The comparison at half the learning rate.
    both learning_rate 5e-4
}

starcraft() { # task, environment, steps, demonstrations, coefficient, settings: two seeds of both
    local task=$1 env=$2 steps=$3 demos=$4 coefficient=$5
    local settings=("${@:6}")
    dm2 train ippo --env "$env" --seeds 2 --steps "$steps" --out "smac/$task/ippo" "${settings[@]}"
    dm2 train dm2 --env "$env" --seeds 2 --steps "$steps" --out "smac/$task/dm2" "${settings[@]}" \
        --demos "$demos" --imitation.coefficient "$coefficient" --imitation.unit reward
}

smac() { # SMAC's rules, with the paper's coefficients.
    local env="smac/3s_vs_3z?reward=signed" settings=(--ppo.learning-rate 5e-4)
    settings+=(--ppo.entropy 0.01 --ppo.entropy-end None --ppo.clip 0.2)
    expert smac_3s_vs_3z 800000 "$env" "${settings[@]}"
    starcraft 3s_vs_3z "$env" 800000 smac_3s_vs_3z_expert.safetensors 0.3 "${settings[@]}"

    env="smac/3s_vs_4z?reward=signed" settings=(--ppo.entropy-end None)
    [ -e smac_3s_vs_4z_kite.safetensors ] || # no IPPO team wins the battles that it samples
        python "$results/../benchmarks/scripted.py" record kite "$env" smac_3s_vs_4z_kite.safetensors
    starcraft 3s_vs_4z "$env" 1600000 smac_3s_vs_4z_kite.safetensors 0.05 "${settings[@]}"

    env=smac/5m_vs_6m settings+=(--num-envs 128)
    expert smac_5m_vs_6m 2500000 "$env" "${settings[@]}"
    starcraft 5m_vs_6m "$env" 2500000 smac_5m_vs_6m_expert.safetensors 0.3 "${settings[@]}"
}

every_method() { # directory, environment, steps, steps between evaluations, demonstrations
    local method demos
    for method in ippo dm2 gail sil bc magail rmappo qmix vdn iql; do
        case $method in dm2 | gail | bc | magail) demos=(--demos "$5") ;; *) demos=() ;; esac
        dm2 train $method --env "$2" --seeds 3 --steps "$3" --eval-every "$4" \
            --out "methods/$1/$method" "${demos[@]}"
    done
    for method in dm2 magail; do # the price of a discriminator of one's own: five seeds
        dm2 train $method --env "$2" --seeds 5 --steps "$3" --eval-every "$4" \
            --out "methods/$1/$method" --demos "$5"
    done
}

methods() { # Every method with its default settings, on a battle by each rule set.
    expert 3s_vs_4z 1000000
    every_method 3s_vs_4z smax/3s_vs_4z 500000 20000 3s_vs_4z_expert.safetensors
    expert smac_signed_3s_vs_3z 1500000 "smac/3s_vs_3z?reward=signed"
    every_method smac_3s_vs_3z "smac/3s_vs_3z?reward=signed" 800000 25000 \
        smac_signed_3s_vs_3z_expert.safetensors
}

units() { # name, environment, steps, the expert's steps, steps between evaluations
    local env=$2 settings=(--eval-every "$5")
    dm2 train ippo --env "$env" --seed 100 --seeds 1 --steps "$4" --out "experts/units_$1"
    [ -e "units_$1.safetensors" ] ||
        dm2 record "experts/units_$1/seed_100" --out "units_$1.safetensors"
    dm2 train ippo --env "$env" --seeds 3 --steps "$3" --out "coefficient/$1/ippo" "${settings[@]}"
    settings+=(--demos "units_$1.safetensors")
    dm2 train dm2 --env "$env" --seeds 3 --steps "$3" --out "coefficient/$1/reward" \
        "${settings[@]}" --imitation.unit reward --imitation.coefficient 0.05
    dm2 train dm2 --env "$env" --seeds 3 --steps "$3" --out "coefficient/$1/advantage" \
        "${settings[@]}" --imitation.unit advantage --imitation.coefficient 0.5
}

coefficient() { # One untuned coefficient in either unit, on six tasks of three scales.
    units 3s_vs_4z smax/3s_vs_4z 300000 700000 20000
    units 3s_vs_3z smax/3s_vs_3z 200000 500000 10000
    units smac_3m smac/3m 300000 600000 20000
    units smac_3s_vs_3z "smac/3s_vs_3z?reward=signed" 500000 1500000 25000
    units spread jaxmarl/MPE_simple_spread_v3 300000 1000000 20000
    units reference jaxmarl/MPE_simple_reference_v3 300000 1000000 20000
}

collect() {
    local run
    for run in {study,learning,learning_rate,smac,methods,coefficient}/*/*/seed_* study/*/*/*/seed_*; do
        [ -e "$run/metrics.jsonl" ] || continue
        mkdir -p "$results/$run"
        cp "$run/config.json" "$results/$run/"
        if [[ $run = study/* || $run = methods/* || $run = coefficient/* ]]; then
            grep '"kind": "eval"' "$run/metrics.jsonl" >"$results/$run/metrics.jsonl"
        else
            cp "$run/metrics.jsonl" "$results/$run/"
        fi
    done
}

"$what"
