"""Training beside a peer: `python benchmarks/training.py [ippo] [rmappo] [qmix] [--rounds N]`.

Environment steps a second, by turns, each program in a process of its own, as its users run it:

- `ippo`, on `5m_vs_6m`: dm2's IPPO and DM², an actor and a critic of 64 units for every agent, and
  JaxMARL's recurrent IPPO, one network of 128 units for all; 128 environments x 128 steps, 4 epochs
  x 4 minibatches;
- `rmappo`, on `3s_vs_5z`: dm2's RMAPPO with its own 64 units, and with the 128 of JaxMARL's MAPPO,
  where both compute about as much; the rest as above;
- `qmix`, on `3s_vs_4z`: dm2's QMIX with its own settings, 64 units and 32 environments x 128 steps,
  and with the 512 units and 16 environments of JaxMARL's.

JaxMARL's training scripts are not part of its package; `ippo.py`, `mappo.py` and `qmix.py`
re-create what they compute. dm2 leaves out the steps of dead agents, so its time depends on how
long agents live. It learns at a rate of next to nothing here, and so plays as at first, in all
rounds. The products of matrices are counted for each, as if nobody died, and the peak of this
machine is printed beside them.

With `--learn STEPS` both learn, each with its own settings, and greedy win rates are compared
instead (`rmappo` and `qmix`).
"""

import argparse
import json

import ippo
import mappo
import qmix
from racing import Race, peak_gflops, race
from winning import contest

RACES = {"ippo": ippo.RACE, "rmappo": mappo.RACE, "qmix": qmix.RACE}


def report(name: str, one: Race, rounds: int, as_json: bool) -> None:
    """One race: the medians, and the ratios to the peer."""
    rows, peak = race(rounds, one), peak_gflops(5)
    if as_json:
        print(json.dumps({"race": name, "matmul_peak_gflops": peak, "rows": rows}))
        return
    print(f"{name}, smax/{one.scenario}; matrix peak {peak:.0f} GFLOP/s")
    for row in rows:
        low, high = row["ratio_range"]
        print(
            f"{row['program']:<27} {row['steps_per_s']:>8,.0f} steps/s  {row['ratio']:.2f} x"
            f" [{low:.2f}, {high:.2f}]  first iteration after {row['first_iteration_s']:.1f} s,"
            f" {row['mflop_per_step']:.1f} MFLOP a step",
            flush=True,
        )


def main() -> None:
    """Race or learn, as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("races", nargs="*", choices=[*RACES, []], help="all, by default")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--learn", type=int, metavar="STEPS", help="compare win rates instead")
    parser.add_argument("--every", type=int, default=50_000, help="steps between tests")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.races or RACES:
        one = RACES[name]
        if arguments.learn is None:
            report(name, one, arguments.rounds, arguments.json)
        elif one.learners:
            limits = (arguments.seeds, arguments.learn, arguments.every, arguments.json)
            contest(one.learners, *limits)
        elif arguments.races:
            parser.error(f"{name}: the peer is re-created for speed alone")


if __name__ == "__main__":
    main()
